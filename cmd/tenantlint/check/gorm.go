package check

import (
	"go/types"
	"strings"

	"golang.org/x/tools/go/ssa"
)

// gorm looks at a chain of GORM's methods that ends in call. One that began with a fresh *gorm.DB has a context only from
// WithContext; a *gorm.DB from elsewhere may have got one there, as in a transaction's function.
func (c *checker) gorm(fn *ssa.Function, call ssa.CallInstruction) {
	short := call.Common().StaticCallee().Name()
	for v := call.Common().Args[0]; ; {
		link, ok := v.(*ssa.Call)
		if !ok {
			if c.guess && c.kept(v) {
				c.report(call.Pos(), "%s has no context, so no tenant; begin with WithContext(ctx)", short)
			}
			return
		}
		name := calleeName(link.Common())
		switch {
		case name == "(*"+gormDB+").WithContext":
			if c.guess && c.flow.context(link.Common().Args[1]) == yes {
				c.lost(fn, call.Pos(), short)
			}
			return
		case name == "(*"+gormDB+").Session" || !strings.HasPrefix(name, "(*"+gormDB+")."):
			return // its options may have a context
		}
		v = link.Common().Args[0]
	}
}

// kept reports whether a *gorm.DB was opened here, or is kept in a field or a global, where a request's context has no business.
func (c *checker) kept(v ssa.Value) bool {
	switch v := v.(type) {
	case *ssa.Extract:
		opened, ok := v.Tuple.(*ssa.Call)
		return ok && calleeName(opened.Common()) == "gorm.io/gorm.Open"
	case *ssa.UnOp:
		switch addr := v.X.(type) {
		case *ssa.Global:
			return len(c.flow.stores[addr]) > 0 || c.all
		case *ssa.FieldAddr:
			return types.TypeString(v.Type(), nil) == "*"+gormDB && c.fresh(addr)
		}
	}
	return false
}

// fresh reports whether nothing with a context is put into a field in this package.
func (c *checker) fresh(addr *ssa.FieldAddr) bool {
	stores := c.flow.stores[placeOf(addr)]
	for _, v := range stores {
		if call, ok := v.(*ssa.Call); ok && calleeName(call.Common()) != "gorm.io/gorm.Open" {
			return false
		}
	}
	return len(stores) > 0 || c.all
}
