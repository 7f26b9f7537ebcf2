package check

import (
	"go/token"
	"strings"

	"golang.org/x/tools/go/analysis"
)

const allowComment = "//tenantlint:allow"

// allowances are the lines for which a comment gives a reason.
type allowances struct {
	lines map[string]map[int]bool // by file
}

// findAllowances reads the comments. One without a reason allows nothing, and is reported.
func findAllowances(pass *analysis.Pass) *allowances {
	a := &allowances{lines: make(map[string]map[int]bool)}
	for _, file := range pass.Files {
		for _, group := range file.Comments {
			for _, c := range group.List {
				reason, found := strings.CutPrefix(c.Text, allowComment)
				if !found {
					continue
				}
				if strings.TrimSpace(reason) == "" || reason[0] != ' ' {
					pass.Reportf(c.Pos(), "say why: %s <reason>", allowComment)
					continue
				}
				at := pass.Fset.Position(c.Pos())
				if a.lines[at.Filename] == nil {
					a.lines[at.Filename] = make(map[int]bool)
				}
				a.lines[at.Filename][at.Line] = true
			}
		}
	}
	return a
}

// at reports whether the line of pos, or the one above it, has such a comment.
func (a *allowances) at(pos token.Position) bool {
	lines := a.lines[pos.Filename]
	return lines[pos.Line] || lines[pos.Line-1]
}
