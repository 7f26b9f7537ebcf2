package audit

import (
	"encoding/json"
	"io"
)

// The parts of SARIF 2.1.0 that a report needs. A database has no files, so findings have logical locations.
type (
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
	sarifRun struct {
		Tool        sarifTool         `json:"tool"`
		Invocations []sarifInvocation `json:"invocations"`
		Results     []sarifResult     `json:"results"`
	}
	sarifTool struct {
		Driver sarifDriver `json:"driver"`
	}
	sarifDriver struct {
		Name  string      `json:"name"`
		Rules []sarifRule `json:"rules"`
	}
	sarifRule struct {
		ID      string      `json:"id"`
		Short   sarifText   `json:"shortDescription"`
		Full    sarifText   `json:"fullDescription"`
		Help    sarifText   `json:"help"`
		Default sarifConfig `json:"defaultConfiguration"`
	}
	sarifConfig struct {
		Level string `json:"level"`
	}
	sarifText struct {
		Text string `json:"text"`
	}
	sarifInvocation struct {
		Successful    bool                `json:"executionSuccessful"`
		Notifications []sarifNotification `json:"toolExecutionNotifications,omitempty"`
	}
	sarifNotification struct {
		Level   string    `json:"level"`
		Message sarifText `json:"message"`
	}
	sarifResult struct {
		Rule         string             `json:"ruleId"`
		Level        string             `json:"level"`
		Message      sarifText          `json:"message"`
		Locations    []sarifLocation    `json:"locations"`
		Fingerprints map[string]string  `json:"partialFingerprints"`
		Suppressions []sarifSuppression `json:"suppressions,omitempty"`
	}
	sarifLocation struct {
		Logical []sarifLogical `json:"logicalLocations"`
	}
	sarifLogical struct {
		Name string `json:"fullyQualifiedName"`
		Kind string `json:"kind"`
	}
	sarifSuppression struct {
		Kind          string `json:"kind"`
		Justification string `json:"justification"`
	}
)

var sarifLevels = map[Severity]string{Critical: "error", High: "error", Medium: "warning", Low: "note", Info: "note"}

// WriteSARIF writes reports in the format that code scanners share, SARIF 2.1.0. Accepted findings are there, as suppressed.
func WriteSARIF(w io.Writer, reports []*Report) error {
	run := sarifRun{Tool: sarifTool{sarifDriver{Name: "shardedpg rls audit"}}, Invocations: []sarifInvocation{{Successful: true}}, Results: []sarifResult{}}
	for _, r := range Rules() {
		run.Tool.Driver.Rules = append(run.Tool.Driver.Rules, sarifRule{
			ID: r.ID, Short: sarifText{r.Title}, Full: sarifText{r.Why}, Help: sarifText{r.Fix}, Default: sarifConfig{sarifLevels[r.Severity]},
		})
	}
	for _, report := range reports {
		where := report.Database
		if report.Shard != "" {
			where = report.Shard + "/" + where
		}
		for _, n := range report.NotRun {
			run.Invocations[0].Successful = false
			run.Invocations[0].Notifications = append(run.Invocations[0].Notifications, sarifNotification{"error", sarifText{where + ": " + n}})
		}
		for _, f := range report.Findings {
			name := where + "/" + f.Object
			result := sarifResult{
				Rule: f.Rule, Level: sarifLevels[f.Severity], Message: sarifText{f.Object + ": " + f.Title + " (" + f.Detail + "). " + f.Why + " Fix: " + f.Fix},
				Locations:    []sarifLocation{{[]sarifLogical{{name, "resource"}}}},
				Fingerprints: map[string]string{"object/v1": f.Rule + " " + name + " " + f.Detail},
			}
			if f.Accepted != "" {
				result.Suppressions = []sarifSuppression{{"external", f.Accepted}}
			}
			run.Results = append(run.Results, result)
		}
	}
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	out.SetEscapeHTML(false)
	return out.Encode(sarifLog{"https://json.schemastore.org/sarif-2.1.0.json", "2.1.0", []sarifRun{run}})
}
