// Package waiverfile reads the findings of an audit that a team has accepted, from YAML that it keeps under version control:
//
//	waivers:
//	  - rule: SPG040
//	    object: app.customers_email_key   # a pattern; default: any
//	    shard: eu1                        # default: any
//	    reason: one person has one login for all tenants
//	    expires: 2027-03-31               # the last day
//
// It is a package of its own so that programs which audit without a file link no YAML parser.
package waiverfile

import (
	"errors"
	"fmt"
	"io"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/sharded-pg/sharded-pg/rls/audit"
)

type file struct {
	Waivers []waiver `yaml:"waivers"`
}

type waiver struct {
	Rule    string `yaml:"rule"`
	Object  string `yaml:"object"`
	Shard   string `yaml:"shard"`
	Reason  string `yaml:"reason"`
	Expires string `yaml:"expires"`
}

// Read reads waivers. A field that it does not know is an error, and so is a waiver without rule, reason or expiry.
func Read(r io.Reader) ([]audit.Waiver, error) {
	decoder := yaml.NewDecoder(r)
	decoder.KnownFields(true)
	var f file
	if err := decoder.Decode(&f); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("waivers: %w", err)
	}
	var waivers []audit.Waiver
	for i, w := range f.Waivers {
		out := audit.Waiver{Rule: w.Rule, Object: w.Object, Shard: w.Shard, Reason: w.Reason}
		if w.Expires != "" {
			day, err := time.Parse(time.DateOnly, w.Expires)
			if err != nil {
				return nil, fmt.Errorf("waivers: waiver %d (%s): %q is no day: write one like 2027-03-31", i+1, w.Rule, w.Expires)
			}
			out.Expires = day
		}
		waivers = append(waivers, out)
	}
	if err := audit.CheckWaivers(waivers); err != nil {
		return nil, fmt.Errorf("waivers: %w", err)
	}
	return waivers, nil
}
