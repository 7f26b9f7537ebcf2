// Command bench compares this module with the other ways of giving statements a tenant: one process, one server, the
// peers taking turns. README.md beside it says how to read what it prints. It needs a PostgreSQL server installed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	opts, err := parseOptions(os.Args[1:], os.Stderr)
	if err == nil {
		err = run(ctx, os.Stdout, opts)
	}
	stop()
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
	default:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options is what the flags say.
type options struct {
	cases       []benchCase
	peers       []peerKind
	delays      []float64 // round trip, milliseconds
	concurrency []int
	rounds      int
	roundTime   time.Duration
	idle        time.Duration
	idleRounds  int
	rows        int
	tenants     int
	burst       int // goroutines of the stampede
	tcp         bool
	routing     bool
	identity    bool
	registry    int // tenants of the registry section
	noisy       bool
	noisyTimes  noisyTimes
	noisyRows   int // of the noisy tenant
	noisyConns  []int
	noisyChart  string
	outage      bool
	outageTimes outageTimes
	headline    headlineOptions
	only        string // the section to run alone
	cpuProfile  string
	jsonFile    string
}

func parseOptions(args []string, stderr io.Writer) (options, error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	var (
		o           options
		cases       = flags.String("cases", "", "only these cases, separated by commas")
		peers       = flags.String("peers", "", "only these peers, separated by commas; ratios need plain")
		delay       = flags.String("delay", "0,1", "network delays in milliseconds per round trip; 0 is direct")
		concurrency = flags.String("concurrency", "1,16", "numbers of goroutines")
		noisyConns  = flags.String("noisy-conns", fmt.Sprintf("%d,32", 2*runtime.NumCPU()), "connections to the shard in the section noisy")
		quick       = flags.Bool("quick", false, "fewer rows and rounds: a minute or two, numbers are rough")
	)
	flags.IntVar(&o.rounds, "rounds", 13, "turns of each peer in each case; the report shows medians over them")
	flags.DurationVar(&o.roundTime, "round-time", 120*time.Millisecond, "length of one turn")
	flags.IntVar(&o.rows, "rows", 1_000_000, "rows of the table, spread over the tenants")
	flags.BoolVar(&o.tcp, "tcp", false, "without delay, use TCP on 127.0.0.1 instead of the unix socket")
	flags.IntVar(&o.registry, "registry-tenants", registryTenants, "tenants of the registry section; 0 leaves it out")
	flags.DurationVar(&o.headline.length, "headline-time", time.Minute, "length of each run of the section headline; 0 leaves it out")
	flags.IntVar(&o.headline.conns, "headline-conns", 4, "connections to each shard in the section headline")
	flags.IntVar(&o.headline.workers, "headline-goroutines", 32, "goroutines that its statements run on")
	flags.StringVar(&o.only, "only", "", "only this section: "+sections)
	flags.StringVar(&o.noisyChart, "noisy-chart", "bench/out/noisy.svg", "write the chart of the section noisy to this file")
	flags.StringVar(&o.cpuProfile, "cpuprofile", "", "write a CPU profile of "+ownPeer+" alone to this file, in extra rounds")
	flags.StringVar(&o.jsonFile, "out", "bench/out/latest.json", "write the results to this file")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q; all options are flags", flags.Arg(0))
	}
	o.tenants, o.burst, o.idle, o.idleRounds, o.routing = tenantCount, stampedeSize, 1100*time.Millisecond, 8, true
	o.noisy, o.noisyRows, o.identity = true, noisyRows, true
	o.headline.step, o.headline.scale = 8*time.Second, 60
	o.noisyTimes = noisyTimes{rounds: 3, phase: 4 * time.Second, settle: time.Second}
	o.outage, o.outageTimes = true, outageTimes{rounds: 3, phase: 2500 * time.Millisecond}
	if *quick {
		set := map[string]bool{}
		flags.Visit(func(f *flag.Flag) { set[f.Name] = true })
		if !set["rounds"] {
			o.rounds = 3
		}
		if !set["round-time"] {
			o.roundTime = 40 * time.Millisecond
		}
		if !set["rows"] {
			o.rows = 100_000
		}
		if !set["registry-tenants"] {
			o.registry = 5000
		}
		if !set["headline-time"] {
			o.headline.length = 5 * time.Second
		}
		o.headline.step, o.headline.scale = time.Second, 6
		o.idleRounds = 2
		o.noisyTimes = noisyTimes{rounds: 1, phase: time.Second, settle: time.Second / 2}
		o.outageTimes = outageTimes{rounds: 1, phase: 2500 * time.Millisecond}
	}
	if o.only == "cases" { // with the prices of routing, prologue and reset
		o.noisy, o.outage, o.identity, o.registry, o.headline.length = false, false, false, 0, 0
	}
	var err error
	if o.cases, err = chooseCases(*cases); err != nil {
		return o, err
	}
	if o.peers, err = choosePeers(*peers); err != nil {
		return o, err
	}
	if o.delays, err = numbers("delay", *delay, func(s string) (float64, error) { return strconv.ParseFloat(s, 64) }); err != nil {
		return o, err
	}
	if o.concurrency, err = numbers("concurrency", *concurrency, strconv.Atoi); err != nil {
		return o, err
	}
	if o.noisyConns, err = numbers("noisy-conns", *noisyConns, strconv.Atoi); err != nil {
		return o, err
	}
	return o, o.validate()
}

func (o options) validate() error {
	var errs []error
	for _, c := range o.concurrency {
		if c < 1 || c > maxConcurrency {
			errs = append(errs, fmt.Errorf("-concurrency %d: use 1 to %d", c, maxConcurrency))
		}
	}
	for _, d := range o.delays {
		if d < 0 || d > 1000 {
			errs = append(errs, fmt.Errorf("-delay %g: use 0 to 1000 milliseconds", d))
		}
	}
	if o.rounds < 1 || o.roundTime <= 0 || o.rows < 1 {
		errs = append(errs, errors.New("-rounds, -round-time and -rows must be positive"))
	}
	if o.registry < 0 {
		errs = append(errs, errors.New("-registry-tenants must not be negative"))
	}
	if o.only != "" && !slices.Contains(strings.Split(sections, ", "), o.only) {
		errs = append(errs, fmt.Errorf("-only %q: the sections that run alone are %s", o.only, sections))
	}
	if h := o.headline; h.length < 0 || h.conns < 1 || h.conns > serverConnections/2 || h.workers < 1 {
		errs = append(errs, fmt.Errorf("-headline-time must not be negative, -headline-conns must be 1 to %d, -headline-goroutines positive",
			serverConnections/2))
	}
	for _, c := range o.noisyConns {
		if c < 1 || c > maxNoisyConns {
			errs = append(errs, fmt.Errorf("-noisy-conns %d: use 1 to %d", c, maxNoisyConns))
		}
	}
	if o.only == "headline" && o.headline.length == 0 {
		errs = append(errs, errors.New("-only headline needs -headline-time above 0"))
	}
	if o.only == "registry" && o.registry == 0 {
		errs = append(errs, errors.New("-only registry needs -registry-tenants above 0"))
	}
	return errors.Join(errs...)
}

// sections can run alone.
const sections = "cases, registry, noisy, outage, headline, routing, identity"

// maxConcurrency leaves each worker a hot row of its own and all peers together room on the server.
const maxConcurrency = 16

func numbers[T any](name, text string, parse func(string) (T, error)) ([]T, error) {
	var all []T
	for _, s := range strings.Split(text, ",") {
		n, err := parse(strings.TrimSpace(s))
		if err != nil {
			return nil, fmt.Errorf("-%s: %q is not a number", name, s)
		}
		all = append(all, n)
	}
	return all, nil
}
