package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"
)

// collect turns the rounds of one delay and concurrency into results.
func collect(peers []*opened, cases []benchCase, concurrency int, delayMS float64) (all results, failures []string) {
	for _, c := range cases {
		for _, o := range peers {
			if err := o.err[c.name]; err != nil {
				failures = append(failures, fmt.Sprintf("%s, %s, delay %g ms, concurrency %d: %v",
					c.name, o.kind.name, delayMS, concurrency, err))
				continue
			}
			s := o.samples[c.name]
			if len(s) == 0 {
				continue
			}
			all = append(all, result{
				Case: c.name, Peer: o.kind.name, Concurrency: concurrency, DelayMS: delayMS,
				P50us:       median(s, func(s sample) float64 { return s.p50 }),
				P99us:       median(s, func(s sample) float64 { return s.p99 }),
				OpsPerS:     median(s, func(s sample) float64 { return s.ops }),
				AllocsPerOp: median(s, func(s sample) float64 { return s.allocs }),
				client:      median(s, func(s sample) float64 { return s.client }),
				servers:     median(s, func(s sample) float64 { return s.servers }),
			})
		}
	}
	all.setRatios()
	return all, failures
}

// printResults writes one table; collect has put the results of a case side by side.
func printResults(out io.Writer, rs results, title string) error {
	fmt.Fprintf(out, "\n%s\n", title)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "case\tpeer\tp50 µs\tp99 µs\tops/s\tallocs/op\tcpu µs client\tserver\tratio\t")
	last := ""
	for _, r := range rs {
		name := r.Case
		if name == last {
			name = ""
		}
		last = r.Case
		ratio, allocs, client, server := "-", "-", "-", "-"
		if r.RatioToLimit > 0 {
			ratio = fmt.Sprintf("%.2f", r.RatioToLimit)
		}
		if r.AllocsPerOp > 0 {
			allocs = fmt.Sprintf("%.1f", r.AllocsPerOp)
		}
		if r.client > 0 {
			client, server = fmt.Sprintf("%.0f", r.client), fmt.Sprintf("%.0f", r.servers)
		}
		fmt.Fprintf(w, "%s\t%s\t%.1f\t%.1f\t%.0f\t%s\t%s\t%s\t%s\t\n",
			name, r.Peer, r.P50us, r.P99us, r.OpsPerS, allocs, client, server, ratio)
	}
	return w.Flush()
}

func printFootprints(out io.Writer, prints []footprint) error {
	if len(prints) == 0 {
		return nil
	}
	fmt.Fprintf(out, "\nconnections held after the cases, and private memory of their server processes\n")
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "delay ms\tconcurrency\tpeer\tconnections\tMB\tMB for one per tenant\t")
	for _, f := range prints {
		memory, all := "-", "-"
		if f.backendKB > 0 {
			memory = fmt.Sprintf("%.1f", float64(f.backendKB)/1024)
			if f.peer == perTenantPeer {
				all = fmt.Sprintf("%.0f", float64(f.backendKB)/1024/float64(f.connections)*tenantCount)
			}
		}
		fmt.Fprintf(w, "%g\t%d\t%s\t%d\t%s\t%s\t\n", f.delayMS, f.concurrency, f.peer, f.connections, memory, all)
	}
	return w.Flush()
}

func printTargets(out io.Writer, targets []target) error {
	if len(targets) == 0 {
		return nil
	}
	fmt.Fprintf(out, "\ntargets\n")
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, t := range targets {
		word, sign := "MISSED", "≤"
		if t.met() {
			word = "OK"
		}
		if t.atLeast {
			sign = "≥"
		}
		fmt.Fprintf(w, "  %s\t%.3f%s\t%s %g%s\t%s\n", word, t.got, t.unit, sign, t.want, t.unit, t.name)
	}
	return w.Flush()
}

func writeJSON(path string, rs results) error {
	if rs == nil {
		rs = results{}
	}
	text, err := json.MarshalIndent(rs, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(path, append(text, '\n'))
}

// writeFile replaces a file as a whole, so that a reader never sees half of it.
func writeFile(path string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", text, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
