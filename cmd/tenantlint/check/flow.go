package check

import (
	"go/token"
	"go/types"
	"strings"

	"golang.org/x/tools/go/ssa"
)

// verdict on a value: of a handle, whether it is a tenant's; of a context, whether it has no tenant for sure. Where a handle may
// be one of several, the greatest counts.
type verdict int

const (
	silent verdict = iota // nil, or a value that is being followed already
	no
	elsewhere // from another package, or out of something that is not followed
	unknown   // what callers pass
	yes
)

// flow follows values backwards through the functions of one package.
type flow struct {
	callers map[*ssa.Function][]*ssa.CallCommon // of functions of which all calls are known
	made    map[*ssa.Function]*ssa.MakeClosure
	loose   map[*ssa.Function]bool // used as a value: who calls it is not known
	stores  map[any][]ssa.Value    // what is put into a global or a field, by *ssa.Global and *types.Var
	runs    map[*ssa.Function]bool // runs on another goroutine
	invoked map[string]bool        // names of methods that are called through interfaces
}

func newFlow(functions []*ssa.Function) *flow {
	f := &flow{
		callers: make(map[*ssa.Function][]*ssa.CallCommon), made: make(map[*ssa.Function]*ssa.MakeClosure),
		loose: make(map[*ssa.Function]bool), stores: make(map[any][]ssa.Value), runs: make(map[*ssa.Function]bool),
		invoked: make(map[string]bool),
	}
	for _, fn := range functions {
		for _, block := range fn.Blocks {
			for _, instr := range block.Instrs {
				f.index(instr)
			}
		}
	}
	return f
}

func (f *flow) index(instr ssa.Instruction) {
	switch instr := instr.(type) {
	case ssa.CallInstruction:
		common := instr.Common()
		if common.IsInvoke() {
			f.invoked[common.Method.Name()] = true
		}
		if callee := common.StaticCallee(); callee != nil {
			f.callers[callee] = append(f.callers[callee], common)
			_, spawned := instr.(*ssa.Go)
			f.runs[callee] = f.runs[callee] || spawned
		}
		spawns := starts[calleeName(common)]
		for _, arg := range common.Args {
			if fn := functionOf(arg); fn != nil {
				f.loose[fn] = true
				f.runs[fn] = f.runs[fn] || spawns
			}
		}
	case *ssa.Store:
		if place := placeOf(instr.Addr); place != nil {
			f.stores[place] = append(f.stores[place], instr.Val)
		}
		f.use(instr.Val)
	case *ssa.MakeClosure:
		if fn, ok := instr.Fn.(*ssa.Function); ok {
			f.made[fn] = instr
			if method, ok := fn.Object().(*types.Func); ok { // a method as a value, in a function that nobody wrote
				f.loose[fn.Prog.FuncValue(method)] = true
			}
		}
	default:
		for _, operand := range instr.Operands(nil) {
			f.use(*operand)
		}
	}
}

// use notes that a function was put somewhere.
func (f *flow) use(v ssa.Value) {
	if fn := functionOf(v); fn != nil {
		f.loose[fn] = true
	}
}

func functionOf(v ssa.Value) *ssa.Function {
	switch v := v.(type) {
	case *ssa.Function:
		return v
	case *ssa.MakeClosure:
		fn, _ := v.Fn.(*ssa.Function)
		return fn
	case *ssa.ChangeType:
		return functionOf(v.X)
	}
	return nil
}

// placeOf is the global or the field behind an address, of whatever struct.
func placeOf(addr ssa.Value) any {
	switch addr := addr.(type) {
	case *ssa.Global:
		return addr
	case *ssa.FieldAddr:
		return fieldOf(addr.X.Type(), addr.Field)
	}
	return nil
}

func fieldOf(t types.Type, i int) any {
	if p, ok := t.Underlying().(*types.Pointer); ok {
		t = p.Elem()
	}
	if s, ok := t.Underlying().(*types.Struct); ok {
		return s.Field(i).Origin()
	}
	return nil
}

// started reports whether fn runs on a goroutine of its own.
func (f *flow) started(fn *ssa.Function) bool { return f.runs[fn] }

// handle says whether a database handle is a tenant's.
func (f *flow) handle(v ssa.Value) verdict {
	return tracer{f, handleCall, func(a, b verdict) verdict { return max(a, b) }, make(map[ssa.Value]bool)}.value(v, 0)
}

// context says yes for a context in which no tenant can be, whatever way it came.
func (f *flow) context(v ssa.Value) verdict {
	every := func(a, b verdict) verdict {
		if a == silent || a == b {
			return b
		}
		if b == silent {
			return a
		}
		return unknown
	}
	return tracer{f, contextCall, every, make(map[ssa.Value]bool)}.value(v, 0)
}

// tracer follows one value.
type tracer struct {
	*flow
	judge func(*ssa.CallCommon) (verdict, ssa.Value) // of the call that it comes from: a verdict, or another value that decides
	join  func(a, b verdict) verdict
	seen  map[ssa.Value]bool
}

// value follows v; result is the one in question if v is a call of several.
func (t tracer) value(v ssa.Value, result int) verdict {
	if t.seen[v] {
		return silent
	}
	t.seen[v] = true
	switch v := v.(type) {
	case *ssa.Const:
		return silent // nil
	case *ssa.Extract:
		return t.value(v.Tuple, v.Index)
	case *ssa.ChangeType:
		return t.value(v.X, 0)
	case *ssa.ChangeInterface:
		return t.value(v.X, 0)
	case *ssa.MakeInterface:
		return t.value(v.X, 0)
	case *ssa.Phi:
		return t.all(v.Edges)
	case *ssa.UnOp:
		if v.Op == token.MUL {
			return t.cell(v.X)
		}
	case *ssa.Field:
		return t.all(t.stores[fieldOf(v.X.Type(), v.Field)])
	case *ssa.Call:
		return t.call(v.Common(), result)
	case *ssa.FreeVar:
		return t.captured(v)
	case *ssa.Parameter:
		return t.parameter(v)
	}
	return elsewhere
}

// all joins the verdicts on values that may be the one in question.
func (t tracer) all(values []ssa.Value) verdict {
	if len(values) == 0 {
		return elsewhere
	}
	joined := silent
	for _, v := range values {
		joined = t.join(joined, t.value(v, 0))
	}
	return joined
}

func (t tracer) call(call *ssa.CallCommon, result int) verdict {
	found, next := t.judge(call)
	if next != nil {
		return t.value(next, 0)
	}
	fn := call.StaticCallee()
	if found != elsewhere || fn == nil || len(fn.Blocks) == 0 {
		return found
	}
	var returned []ssa.Value
	for _, block := range fn.Blocks {
		if ret, ok := block.Instrs[len(block.Instrs)-1].(*ssa.Return); ok && result < len(ret.Results) {
			returned = append(returned, ret.Results[result])
		}
	}
	return t.all(returned)
}

// cell follows what may be in a variable.
func (t tracer) cell(addr ssa.Value) verdict {
	switch addr := addr.(type) {
	case *ssa.FieldAddr:
		if strings.HasPrefix(types.TypeString(addr.X.Type(), nil), "*github.com/jmoiron/sqlx.") { // it embeds what it wraps
			return t.value(addr.X, 0)
		}
		return t.all(t.stores[placeOf(addr)])
	case *ssa.Global:
		return t.all(t.stores[addr])
	case *ssa.FreeVar:
		if made := t.made[addr.Parent()]; made != nil {
			return t.cell(made.Bindings[index(addr.Parent().FreeVars, addr)])
		}
	case *ssa.Alloc:
		values, known := stored(addr, t.made)
		if known {
			return t.all(values)
		}
	}
	return elsewhere
}

// stored collects what is put into a local variable, also by the closures that it is captured by. It is not known when its
// address goes elsewhere.
func stored(addr ssa.Value, made map[*ssa.Function]*ssa.MakeClosure) (values []ssa.Value, known bool) {
	for _, user := range *addr.Referrers() {
		switch user := user.(type) {
		case *ssa.UnOp, *ssa.DebugRef:
		case *ssa.Store:
			if user.Addr != addr {
				return nil, false
			}
			values = append(values, user.Val)
		case *ssa.MakeClosure:
			fn, ok := user.Fn.(*ssa.Function)
			if !ok {
				return nil, false
			}
			inner, ok := stored(fn.FreeVars[index(user.Bindings, addr)], made)
			if !ok {
				return nil, false
			}
			values = append(values, inner...)
		default:
			return nil, false
		}
	}
	return values, true
}

// captured follows a value that a closure has from the function around it.
func (t tracer) captured(v *ssa.FreeVar) verdict {
	if made := t.made[v.Parent()]; made != nil {
		return t.value(made.Bindings[index(v.Parent().FreeVars, v)], 0)
	}
	return elsewhere
}

// parameter follows the arguments of all calls of an unexported function that is only ever called.
func (t tracer) parameter(v *ssa.Parameter) verdict {
	fn := v.Parent()
	object := fn.Object()
	if t.loose[fn] || len(t.callers[fn]) == 0 || object != nil && (object.Exported() || t.invoked[object.Name()]) || fn.Origin() != nil || fn.TypeParams().Len() > 0 {
		return unknown
	}
	var args []ssa.Value
	for _, call := range t.callers[fn] {
		args = append(args, call.Args[index(fn.Params, v)])
	}
	return t.all(args)
}

func index[T comparable](all []T, one T) int {
	for i, v := range all {
		if v == one {
			return i
		}
	}
	return 0
}
