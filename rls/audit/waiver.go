package audit

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"time"
)

// Waiver accepts findings for a reason, for a while.
type Waiver struct {
	Rule    string
	Object  string // pattern; empty: any
	Shard   string // empty: any
	Reason  string
	Expires time.Time // the last day on which it is good
}

// CheckWaivers returns all that is wrong with waivers.
func CheckWaivers(waivers []Waiver) error {
	var errs []error
	for i, w := range waivers {
		bad := func(format string, args ...any) {
			errs = append(errs, fmt.Errorf("waiver %d (%s): %s", i+1, w.Rule, fmt.Sprintf(format, args...)))
		}
		if !slices.ContainsFunc(Rules(), func(r Rule) bool { return r.ID == w.Rule }) {
			bad("there is no rule %q: shardedpg rls rules lists them", w.Rule)
		}
		if w.Reason == "" {
			bad("no reason: say why this is accepted, for whoever reads it next")
		}
		if w.Expires.IsZero() {
			bad("no expiry: say until when, so that somebody looks again")
		}
		if _, err := path.Match(w.Object, ""); err != nil {
			bad("object %q is no pattern: write a name, with * for any characters", w.Object)
		}
	}
	return errors.Join(errs...)
}

// Waive accepts the findings that a waiver is for. One that has expired accepts nothing, and is noted.
func (r *Report) Waive(waivers []Waiver, shard string, now time.Time) {
	for _, w := range waivers {
		if w.Shard != "" && w.Shard != shard {
			continue
		}
		expired := !now.Before(w.Expires.AddDate(0, 0, 1))
		used := false
		for i := range r.Findings {
			f := &r.Findings[i]
			if f.Rule != w.Rule || !w.covers(f.Object) {
				continue
			}
			used = true
			if !expired {
				f.Accepted = "waived until " + w.Expires.Format(time.DateOnly) + ": " + w.Reason
			}
		}
		switch {
		case expired && used:
			r.Notes = append(r.Notes, fmt.Sprintf("the waiver of %s expired on %s: fix it, or decide again", w.Rule, w.Expires.Format(time.DateOnly)))
		case !used && w.Shard != "":
			r.Notes = append(r.Notes, fmt.Sprintf("the waiver of %s for shard %q is for nothing that was found: remove it", w.Rule, w.Shard))
		}
	}
}

func (w Waiver) covers(object string) bool {
	if w.Object == "" {
		return true
	}
	ok, _ := path.Match(w.Object, object)
	return ok || w.Object == object
}
