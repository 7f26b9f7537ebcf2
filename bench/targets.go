package main

import "fmt"

// result is one line of the JSON: one case, one peer, one concurrency, one delay.
type result struct {
	Case         string  `json:"case"`
	Peer         string  `json:"peer"`
	Concurrency  int     `json:"concurrency"`
	DelayMS      float64 `json:"delay_ms"`
	P50us        float64 `json:"p50_us"`
	P99us        float64 `json:"p99_us"`
	OpsPerS      float64 `json:"ops_per_s"`
	AllocsPerOp  float64 `json:"allocs_per_op"`
	RatioToLimit float64 `json:"ratio_to_limit"`

	// Of the section headline only.
	P999us      float64 `json:"p999_us,omitempty"`
	ClientUS    float64 `json:"client_cpu_us,omitempty"` // processor time per statement
	ServersUS   float64 `json:"servers_cpu_us,omitempty"`
	Lane1       int64   `json:"lane1,omitempty"` // statements that flew without and with a reset in front
	Lane3       int64   `json:"lane3,omitempty"`
	Waited      int64   `json:"waited,omitempty"` // for a connection
	Connections int     `json:"connections,omitempty"`

	client, servers float64 // microseconds of processor time per operation; only printed
}

// cost is the figure that ratios are made of, smaller is better: latency at concurrency 1, time per operation above.
func (r result) cost() float64 {
	if r.Concurrency == 1 {
		return r.P50us
	}
	if r.OpsPerS == 0 {
		return 0
	}
	return 1e6 / r.OpsPerS
}

// results finds one of them again.
type results []result

func (rs results) find(c, peer string, concurrency int, delayMS float64) (result, bool) {
	for _, r := range rs {
		if r.Case == c && r.Peer == peer && r.Concurrency == concurrency && r.DelayMS == delayMS {
			return r, true
		}
	}
	return result{}, false
}

// setRatios compares every peer with the limit.
func (rs results) setRatios() {
	for i, r := range rs {
		if limit, ok := rs.find(r.Case, limitPeer, r.Concurrency, r.DelayMS); ok && limit.cost() > 0 {
			rs[i].RatioToLimit = r.cost() / limit.cost()
		}
	}
}

// target is one promise of the project and what this run says to it.
type target struct {
	name    string
	got     float64
	want    float64
	atLeast bool // want is a lower bound
	unit    string
}

func (t target) met() bool {
	if t.atLeast {
		return t.got >= t.want
	}
	return t.got <= t.want
}

// ratioTarget bounds the cost of one case, as a multiple of the limit's.
type ratioTarget struct {
	c           string
	concurrency int
	delayMS     float64
	atMost      float64
}

var ratioTargets = []ratioTarget{
	{"read_lane1", 1, 1, 1.02},
	{"read_lane3", 1, 1, 1.02},
	{"read_idle", 1, 1, 1.02},
	{"write", 1, 1, 1.02},
	{"tx1", 1, 1, 0.70},
	{"tx3", 1, 1, 0.82},
	{"read_lane1", 16, 1, 1.05},
	{"read_lane3", 16, 1, 1.05},
	{"write", 16, 1, 1.05},
	{"tx1", 16, 1, 0.70},
	{"tx3", 16, 1, 0.82},
	{"read_lane1", 1, 0, 1.25},
	{"read_lane1", 16, 0, 1.45},
	{"read_lane3", 1, 0, 2.2},
	{"read_lane3", 16, 0, 2.6},
}

// peerTargets say how much more than us the other ways must cost at 1 ms.
var peerTargets = []struct {
	peer    string
	atLeast float64
}{{"begin-set-commit", 3.5}, {"conn-set-reset", 2.7}, {"pool-hooks", 1.85}}

// extraAllocs is how many allocations more than the limit's an operation may make.
const extraAllocs = 6

// noisyTarget is how much longer the slowest of the quiet tenants' statements may take beside a noisy one.
const noisyTarget = 1.5

// outageTarget is how much longer the slowest statements on other shards may take while one has an outage.
const outageTarget = 1.1

// judge lists the targets that the run has figures for.
func (rs results) judge() []target {
	var all []target
	for _, t := range ratioTargets {
		own, ok := rs.find(t.c, ownPeer, t.concurrency, t.delayMS)
		if !ok || own.RatioToLimit == 0 {
			continue
		}
		all = append(all, target{
			name: fmt.Sprintf("%s, delay %g ms, concurrency %d: ratio to %s", t.c, t.delayMS, t.concurrency, limitPeer),
			got:  own.RatioToLimit, want: t.atMost, unit: "x",
		})
	}
	for _, c := range []string{"read_lane1", "read_lane3", "write", "tx1", "tx3"} {
		own, ok := rs.find(c, ownPeer, 1, 0)
		limit, limitOK := rs.find(c, limitPeer, 1, 0)
		if ok && limitOK {
			all = append(all, target{
				name: fmt.Sprintf("%s: allocations per operation above %s", c, limitPeer),
				got:  own.AllocsPerOp - limit.AllocsPerOp, want: extraAllocs,
			})
		}
	}
	for _, r := range rs {
		alone, ok := rs.find(noisyAlone, r.Peer, r.Concurrency, r.DelayMS)
		if ok && r.Case == noisyBeside && r.Peer == ownPeer {
			all = append(all, target{
				name: fmt.Sprintf("p99 of quiet tenants beside a noisy one, %d connections: ratio to alone", r.Concurrency),
				got:  r.P99us / alone.P99us, want: noisyTarget, unit: "x",
			})
		}
	}
	for _, r := range rs {
		if r.Case == outageNames[outageDuring] || r.Case == outageNames[outageAfter] {
			all = append(all, target{
				name: fmt.Sprintf("p99 of other shards' tenants, %s, one shard %s: ratio to before", r.Case, r.Peer),
				got:  r.RatioToLimit, want: outageTarget, unit: "x",
			})
		}
		if r.Peer == ownPeer && (r.Case == headlineRead || r.Case == headlineMixed) {
			all = append(all, target{
				name: fmt.Sprintf("%s: statements per second with p99 below %v", r.Case, headlineP99),
				got:  r.OpsPerS, want: headlineRate, atLeast: true, unit: "/s",
			})
		}
	}
	for _, p := range peerTargets {
		for _, c := range []string{"read_lane1", "read_lane3", "write"} {
			own, ok := rs.find(c, ownPeer, 1, 1)
			other, otherOK := rs.find(c, p.peer, 1, 1)
			if ok && otherOK && own.cost() > 0 {
				all = append(all, target{
					name: fmt.Sprintf("%s, delay 1 ms, concurrency 1: %s against %s", c, p.peer, ownPeer),
					got:  other.cost() / own.cost(), want: p.atLeast, atLeast: true, unit: "x",
				})
			}
		}
	}
	return all
}
