package registry

import (
	"encoding/json"
	"fmt"
	"time"
)

// shownOverride is an override in JSON: in the registry, in the audit log and for programs.
type shownOverride struct {
	StatementTimeout string    `json:"statement_timeout,omitempty"`
	WorkMemKB        int       `json:"work_mem_kb,omitempty"`
	MaxConns         int       `json:"max_conns,omitempty"`
	Weight           int       `json:"weight,omitempty"`
	Rate             float64   `json:"rate,omitempty"`
	Burst            int       `json:"burst,omitempty"`
	Expires          time.Time `json:"expires,omitzero"`
	Reason           string    `json:"reason,omitempty"`
}

// MarshalJSON writes the statement timeout as [FormatTimeout] does.
func (o Override) MarshalJSON() ([]byte, error) {
	shown := shownOverride{
		WorkMemKB: o.WorkMemKB, MaxConns: o.MaxConns, Weight: o.Weight, Rate: o.Rate, Burst: o.Burst,
		Expires: o.Expires, Reason: o.Reason,
	}
	if o.StatementTimeout != 0 {
		shown.StatementTimeout = FormatTimeout(o.StatementTimeout)
	}
	return json.Marshal(shown)
}

// UnmarshalJSON reads what MarshalJSON writes.
func (o *Override) UnmarshalJSON(text []byte) (err error) {
	var shown shownOverride
	if err := json.Unmarshal(text, &shown); err != nil {
		return err
	}
	*o = Override{
		WorkMemKB: shown.WorkMemKB, MaxConns: shown.MaxConns, Weight: shown.Weight, Rate: shown.Rate, Burst: shown.Burst,
		Expires: shown.Expires, Reason: shown.Reason,
	}
	if shown.StatementTimeout != "" {
		o.StatementTimeout, err = ParseTimeout(shown.StatementTimeout)
	}
	return err
}

// overrideColumns is what a table holds of the override and the throttle: override, override_until and under_throttle. A
// throttle takes the override's place, where drivers of version 3 look, and the override goes under it.
func (t *TenantInfo) overrideColumns() (override *string, until any, under *string, err error) {
	top := t.Override
	if t.Throttle != nil {
		top = t.Throttle
		below := t.Override
		if below == nil {
			below = &Override{}
		}
		if under, err = overrideText(below); err != nil {
			return nil, nil, nil, err
		}
	}
	if top == nil {
		return nil, nil, nil, nil
	}
	until = "infinity"
	if !top.Expires.IsZero() {
		until = top.Expires
	}
	override, err = overrideText(top)
	return override, until, under, err
}

func overrideText(o *Override) (*string, error) {
	bytes, err := json.Marshal(o)
	text := string(bytes)
	return &text, err
}

// readOverrides undoes overrideColumns; a column that is null is empty here.
func (t *TenantInfo) readOverrides(override, under string) (err error) {
	if t.Override, err = overrideFromText(override); err != nil || under == "" {
		return err
	}
	t.Throttle = t.Override
	t.Override, err = overrideFromText(under)
	return err
}

func overrideFromText(text string) (*Override, error) {
	if text == "" || text == "{}" {
		return nil, nil
	}
	o := new(Override)
	if err := json.Unmarshal([]byte(text), o); err != nil {
		return nil, fmt.Errorf("override: %w", err)
	}
	return o, nil
}
