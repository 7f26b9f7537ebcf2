package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"text/tabwriter"
	"time"
)

// change is how p99 of a phase compares with that of the one before the fault, as the median of the rounds.
func change(rounds []outageRound, phase int) float64 {
	all := changes(rounds, phase)
	return (all[(len(all)-1)/2] + all[len(all)/2]) / 2
}

// changes are those of each round, in order. What the machine did to everybody in that phase is taken out: the control tells it.
func changes(rounds []outageRound, phase int) (all []float64) {
	against := func(r outageRound, phase int) float64 { return r.others[phase].p99 / r.control[phase].p99 }
	for _, r := range rounds {
		all = append(all, against(r, phase)/against(r, outageBefore))
	}
	slices.Sort(all)
	return all
}

func samplesOf(rounds []outageRound, of func(outageRound) sample) (all []sample) {
	for _, r := range rounds {
		all = append(all, of(r))
	}
	return all
}

// middleOf is the median of a time over the rounds.
func middleOf(rounds []outageRound, of func(outageRound) time.Duration) float64 {
	return median(samplesOf(rounds, func(r outageRound) sample { return sample{p50: float64(of(r).Nanoseconds()) / 1e3} }),
		func(s sample) float64 { return s.p50 })
}

// outageResults are of the other shards' tenants; the peer is the fault.
func outageResults(rounds [][]outageRound) (all results) {
	for i, f := range faults[:len(rounds)] {
		for phase, name := range outageNames {
			s := samplesOf(rounds[i], func(r outageRound) sample { return r.others[phase] })
			all = append(all, result{
				Case: name, Peer: f.name, Concurrency: outageConns,
				P50us:        median(s, func(s sample) float64 { return s.p50 }),
				P99us:        median(s, func(s sample) float64 { return s.p99 }),
				OpsPerS:      median(s, func(s sample) float64 { return s.ops }),
				RatioToLimit: change(rounds[i], phase),
			})
		}
	}
	return all
}

func printOutage(out io.Writer, rounds [][]outageRound, times outageTimes) error {
	fmt.Fprintf(out, "\nAn outage of one of %d shards: %d statements a second on each, %d rounds, phases of %v, during the fault three times that\n",
		outageShards, outageRate, times.rounds, times.phase)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "tenants of the other shards\tp50\tp99\tcontrol p99\tp99 to before\tin single rounds\t")
	lost, early := 0, 0
	for i, f := range faults[:len(rounds)] {
		for phase, name := range [outagePhases]string{"no fault (A/A)", "before", "during", "after"} {
			s := samplesOf(rounds[i], func(r outageRound) sample { return r.others[phase] })
			all := changes(rounds[i], phase)
			c := samplesOf(rounds[i], func(r outageRound) sample { return r.control[phase] })
			fmt.Fprintf(w, "%s: %s\t%s\t%s\t%s\t%s\t%s to %s\t\n", f.name, name,
				microseconds(median(s, func(s sample) float64 { return s.p50 })), microseconds(median(s, func(s sample) float64 { return s.p99 })),
				microseconds(median(c, func(s sample) float64 { return s.p99 })),
				percent(change(rounds[i], phase)), percent(all[0]), percent(all[len(all)-1]))
		}
		for _, r := range rounds[i] {
			lost, early = lost+r.lost, early+r.early
		}
	}
	fmt.Fprintf(w, "\t\t\t\t\t\t\nits own tenants\tfirst typed error\tall at once from\ttheir p50\tp99\tserved again after\t\n")
	for i, f := range faults[:len(rounds)] {
		s := samplesOf(rounds[i], func(r outageRound) sample { return r.refused })
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t\n", f.name,
			microseconds(middleOf(rounds[i], func(r outageRound) time.Duration { return r.firstTyped })),
			microseconds(middleOf(rounds[i], func(r outageRound) time.Duration { return r.quick })),
			microseconds(median(s, func(s sample) float64 { return s.p50 })), microseconds(median(s, func(s sample) float64 { return s.p99 })),
			again(middleOf(rounds[i], func(r outageRound) time.Duration { return r.served })))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "statements without an answer: %d of the other shards, %d of its own before the fault\n", lost, early)
	return err
}

// again is when a shard was served again: of most rounds, or not in the phase.
func again(us float64) string {
	if us >= never.Seconds()*1e6/2 {
		return "not in its phase"
	}
	return microseconds(us)
}

func percent(ratio float64) string { return fmt.Sprintf("%+.0f%%", math.Round(100*(ratio-1))) }
