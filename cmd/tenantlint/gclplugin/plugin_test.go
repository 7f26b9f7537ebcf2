package gclplugin_test

import (
	"testing"

	"github.com/golangci/plugin-module-register/register"

	_ "github.com/sharded-pg/sharded-pg/cmd/tenantlint/gclplugin"
)

func TestThePluginTakesTheSettingsOfGolangciLint(t *testing.T) {
	t.Parallel()
	build, err := register.GetPlugin("tenantlint")
	if err != nil {
		t.Fatal(err)
	}
	plugin, err := build(map[string]any{"unknown": true, "packages": []any{"a/..."}, "allow": []any{"b"}, "with-tests": true})
	if err != nil {
		t.Fatal(err)
	}
	analyzers, err := plugin.BuildAnalyzers()
	if err != nil || len(analyzers) != 1 || plugin.GetLoadMode() != register.LoadModeTypesInfo {
		t.Fatal(analyzers, err)
	}
	for flag, want := range map[string]string{"unknown": "true", "packages": "a/...", "allow": "b", "with-tests": "true"} {
		if got := analyzers[0].Flags.Lookup(flag).Value.String(); got != want {
			t.Errorf("-%s is %q", flag, got)
		}
	}
	if _, err := build(map[string]any{"unknown setting": true}); err == nil {
		t.Error("an unknown setting was taken")
	}
	if _, err := build(nil); err != nil {
		t.Error(err)
	}
}
