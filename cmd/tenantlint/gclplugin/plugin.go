// Package gclplugin makes tenantlint a linter of golangci-lint: a module plugin, which `golangci-lint custom` builds in.
package gclplugin

import (
	"github.com/golangci/plugin-module-register/register"
	"golang.org/x/tools/go/analysis"

	"github.com/sharded-pg/sharded-pg/cmd/tenantlint/check"
)

//nolint:gochecknoinits // golangci-lint asks for it: plugins are known by being imported
func init() { register.Plugin("tenantlint", New) }

// settings are those of linters.settings.custom.tenantlint.settings.
type settings struct {
	Unknown  bool     `json:"unknown"`
	Packages []string `json:"packages"`
	Allow    []string `json:"allow"`
	Tests    bool     `json:"with-tests"`
}

type plugin struct{ config check.Config }

// New returns the plugin with the settings of golangci-lint's configuration. Unknown ones are an error.
func New(raw any) (register.LinterPlugin, error) {
	s, err := register.DecodeSettings[settings](raw)
	if err != nil {
		return nil, err
	}
	return &plugin{check.Config(s)}, nil
}

// BuildAnalyzers returns the analyzer.
func (p *plugin) BuildAnalyzers() ([]*analysis.Analyzer, error) {
	return []*analysis.Analyzer{check.New(&p.config)}, nil
}

// GetLoadMode says that the analyzer needs types.
func (p *plugin) GetLoadMode() string { return register.LoadModeTypesInfo }
