package main

import (
	"bytes"
	"cmp"
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
	"time"
)

const (
	panelWidth, panelHeight = 860.0, 400.0
	panelLeft, panelRight   = 70.0, 180.0 // around the lines
	panelTop, panelBottom   = 64.0, 44.0
	latencyLow, latencyHigh = 1e-4, 10.0 // seconds, on a scale of powers of ten
	chartStep               = 500 * time.Millisecond
	chartBold               = `font-weight="bold"`
	ownColor                = "#d55e00"
)

// peerColors can be told apart also by people who do not see all colours.
var peerColors = []string{"#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#777777"}

// noisyChart draws the p99 of the quiet tenants over the time of a round, in a panel for each number of connections.
func noisyChart(runs []*noisyRun, times noisyTimes) []byte {
	panels := map[int][]*noisyRun{}
	var conns []int
	for _, r := range runs {
		if panels[r.conns] == nil {
			conns = append(conns, r.conns)
		}
		panels[r.conns] = append(panels[r.conns], r)
	}
	var svg bytes.Buffer
	height := panelHeight * float64(len(conns))
	fmt.Fprintf(&svg, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" font-family="sans-serif" font-size="13" fill="#333">
<rect width="%g" height="%g" fill="white"/>
`, panelWidth, height, panelWidth, height)
	for i, c := range conns {
		drawPanel(&panel{times: times, svg: &svg, top: panelHeight * float64(i)}, panels[c])
	}
	svg.WriteString("</svg>\n")
	return svg.Bytes()
}

type panel struct {
	times noisyTimes
	svg   *bytes.Buffer
	top   float64
}

func (p *panel) x(at time.Duration) float64 {
	return panelLeft + (panelWidth-panelLeft-panelRight)*float64(at)/float64(p.times.round())
}

func (p *panel) y(seconds float64) float64 {
	share := math.Log(min(max(seconds, latencyLow), latencyHigh)/latencyLow) / math.Log(latencyHigh/latencyLow)
	return p.top + panelHeight - panelBottom - share*(panelHeight-panelTop-panelBottom)
}

func (p *panel) text(x, y float64, anchor, style, format string, args ...any) {
	fmt.Fprintf(p.svg, `<text x="%.1f" y="%.1f" text-anchor="%s" %s>%s</text>`+"\n", x, y, anchor, style,
		html.EscapeString(fmt.Sprintf(format, args...)))
}

func drawPanel(p *panel, runs []*noisyRun) {
	p.text(panelLeft, p.top+24, "start", chartBold+` font-size="16"`, "%d connections: p99 of %d quiet tenants, %d statements a second each",
		runs[0].conns, noisyTenants, quietRate)
	p.text(panelLeft, p.top+44, "start", "", "in the shaded part one more tenant asks for %d sorts a second; median of %d rounds",
		quietRate*noisyFactor, p.times.rounds)
	begin, end := p.x(p.times.phase), p.x(2*p.times.phase)
	fmt.Fprintf(p.svg, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="#f3ece0"/>`+"\n", begin, p.y(latencyHigh), end-begin,
		p.y(latencyLow)-p.y(latencyHigh))
	for s := latencyLow; s < latencyHigh*1.1; s *= 10 {
		fmt.Fprintf(p.svg, `<path d="M%g %.1fH%g" stroke="#ddd"/>`+"\n", panelLeft, p.y(s), panelWidth-panelRight)
		p.text(panelLeft-8, p.y(s)+4, "end", "", "%s", microseconds(s*1e6))
	}
	for at := time.Duration(0); at <= p.times.round(); at += time.Second {
		p.text(p.x(at), p.top+panelHeight-panelBottom+20, "middle", "", "%s", at)
	}
	worst := func(r *noisyRun) float64 { return r.p99(p.times.phase, 2*p.times.phase) }
	legend := p.top + panelTop + 10
	for _, r := range slices.SortedFunc(slices.Values(runs), func(a, b *noisyRun) int { return cmp.Compare(worst(b), worst(a)) }) {
		color, width := peerColors[slices.Index(runs, r)%len(peerColors)], 1.5
		if r.peer == ownPeer {
			color, width = ownColor, 3
		}
		var path strings.Builder
		for at, verb := time.Duration(0), 'M'; at+chartStep <= p.times.round(); at, verb = at+chartStep, 'L' {
			fmt.Fprintf(&path, "%c%.1f %.1f", verb, p.x(at+chartStep/2), p.y(r.p99(at, at+chartStep)/1e6))
		}
		fmt.Fprintf(p.svg, `<path d="%s" fill="none" stroke="%s" stroke-width="%g" stroke-linejoin="round"/>`+"\n", path.String(), color, width)
		p.text(panelWidth-panelRight+12, legend, "start", chartBold+fmt.Sprintf(` fill="%s"`, color), "%s", r.peer)
		p.text(panelWidth-panelRight+12, legend+17, "start", "", "%s, then %s", microseconds(r.p99(0, p.times.phase)), microseconds(worst(r)))
		legend += 46
	}
}

// p99 of what was to begin in a part of the rounds, in microseconds: the median over the rounds.
func (r *noisyRun) p99(from, to time.Duration) float64 {
	return median(r.samples(from, to), func(s sample) float64 { return s.p99 })
}
