package fleetfile

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// tenants are read here and not by the parser, which compares each key of a mapping with each other one: with a hundred
// thousand tenants that takes minutes.
type tenants map[string]tenant

// UnmarshalYAML reads tenants. It refuses what the parser refuses.
func (m *tenants) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind != yaml.MappingNode || slices.ContainsFunc(node.Content, merge) {
		return node.Decode((*map[string]tenant)(m))
	}
	*m = make(tenants, len(node.Content)/2)
	lines := make(map[string]int, len(node.Content)/2)
	var wrong yaml.TypeError // all that is, as the parser says it
	for pair := range slices.Chunk(node.Content, 2) {
		var id string
		var t tenant
		if err := errors.Join(pair[0].Decode(&id), pair[1].Decode(&t)); err != nil {
			var several *yaml.TypeError
			if !errors.As(err, &several) {
				return err
			}
			wrong.Errors = append(wrong.Errors, several.Errors...)
			continue
		}
		if line, twice := lines[id]; twice {
			wrong.Errors = append(wrong.Errors, fmt.Sprintf("line %d: mapping key %q already defined at line %d", pair[0].Line, id, line))
		}
		(*m)[id], lines[id] = t, pair[0].Line
	}
	if len(wrong.Errors) > 0 {
		return &wrong
	}
	return nil
}

func merge(node *yaml.Node) bool { return node.Value == "<<" && node.ShortTag() == "!!merge" }

// UnmarshalYAML reads a tenant. Decode of a node forgets that unknown fields are errors, but not that an anchor must not
// contain itself, so it comes first.
func (t *tenant) UnmarshalYAML(node *yaml.Node) error {
	type plain tenant
	if err := node.Decode((*plain)(t)); err != nil {
		return err
	}
	if unknown := unknownFields(node); len(unknown) > 0 {
		return &yaml.TypeError{Errors: unknown}
	}
	return nil
}

var tenantFields = func() (names []string) {
	for field := range reflect.TypeFor[tenant]().Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		names = append(names, name)
	}
	return names
}()

// unknownFields returns what a tenant does not have, in what is merged into it, too.
func unknownFields(node *yaml.Node) (all []string) {
	switch node.Kind {
	case yaml.AliasNode:
		return unknownFields(node.Alias)
	case yaml.SequenceNode: // of what is merged
		for _, merged := range node.Content {
			all = append(all, unknownFields(merged)...)
		}
	case yaml.MappingNode:
		for pair := range slices.Chunk(node.Content, 2) {
			if merge(pair[0]) {
				all = append(all, unknownFields(pair[1])...)
			} else if name := pair[0].Value; !slices.Contains(tenantFields, name) {
				all = append(all, fmt.Sprintf("line %d: field %s not found in type tenant", pair[0].Line, name))
			}
		}
	}
	return all
}
