package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

type completion struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"The shell: ${enum}."`
}

func (c *completion) Run(a *app, parser *kong.Kong) error {
	words := make(map[string][]string)
	collect(parser.Model.Node, words)
	switch c.Shell {
	case "zsh":
		fmt.Fprintln(a.out, "autoload -U +X bashcompinit && bashcompinit")
		fallthrough
	case "bash":
		fmt.Fprint(a.out, bashScript(words))
	case "fish":
		fmt.Fprint(a.out, fishScript(words))
	}
	return nil
}

// collect gathers, for each command, the words that may follow it.
func collect(node *kong.Node, words map[string][]string) {
	path := commandPath(node)
	for _, child := range node.Children {
		words[path] = append(words[path], child.Name)
		collect(child, words)
	}
	for _, group := range node.AllFlags(true) {
		for _, flag := range group {
			words[path] = append(words[path], "--"+flag.Name)
		}
	}
}

// bashScript finds the command in front of the cursor, which ends at the first word that names none, and offers what may
// follow it.
func bashScript(words map[string][]string) string {
	var b strings.Builder
	b.WriteString(`_shardedpg() {
	local path="" word i
	for ((i = 1; i < COMP_CWORD; i++)); do
		word="${COMP_WORDS[i]}"
		case "${path:+$path }$word" in
`)
	var known []string
	for _, path := range slices.Sorted(maps.Keys(words)) {
		if path != "" {
			known = append(known, "'"+path+"'")
		}
	}
	fmt.Fprintf(&b, "\t\t%s) path=\"${path:+$path }$word\" ;;\n\t\tesac\n\tdone\n\tcase \"$path\" in\n", strings.Join(known, "|"))
	for _, path := range slices.Sorted(maps.Keys(words)) {
		fmt.Fprintf(&b, "\t'%s') word='%s' ;;\n", path, strings.Join(words[path], " "))
	}
	b.WriteString(`	esac
	COMPREPLY=($(compgen -W "$word" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _shardedpg shardedpg
`)
	return b.String()
}

func fishScript(words map[string][]string) string {
	var b strings.Builder
	b.WriteString(`function __shardedpg_at
	set -l path
	for word in (commandline -opc)[2..-1]
		switch "$path $word"
`)
	for _, path := range slices.Sorted(maps.Keys(words)) {
		if path != "" {
			fmt.Fprintf(&b, "\t\tcase ' %s'\n\t\t\tset path ' %s'\n", path, path)
		}
	}
	b.WriteString("\t\tend\n\tend\n\ttest \"$path\" = \"$argv[1]\"\nend\ncomplete -c shardedpg -f\n" +
		"complete -c shardedpg -s f -l file -r -F\n")
	for _, path := range slices.Sorted(maps.Keys(words)) {
		at := path
		if at != "" {
			at = " " + at
		}
		fmt.Fprintf(&b, "complete -c shardedpg -n \"__shardedpg_at '%s'\" -a '%s'\n", at, strings.Join(words[path], " "))
	}
	return b.String()
}
