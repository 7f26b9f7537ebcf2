package registry

import (
	"encoding/json"
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
