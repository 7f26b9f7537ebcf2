package check

import (
	"go/types"
	"strings"

	"golang.org/x/tools/go/ssa"
)

// method is a method that sends something to a shard.
type method struct {
	instead  string // the form with a context; empty when this is it, and the context comes first
	inherits bool   // without a tenant in the context it belongs to the one that the handle began with
}

// methods by their full names. A statement, and what is made of it, is followed to the handle that it was made with.
var methods = func() map[string]method {
	m := make(map[string]method)
	add := func(receiver string, inherits bool, names string) {
		for pair := range strings.FieldsSeq(names) {
			without, with, found := strings.Cut(pair, ":")
			if !found {
				with = without + "Context"
			}
			m["("+receiver+")."+without] = method{with, inherits}
			m["("+receiver+")."+with] = method{"", inherits}
		}
	}
	add("*database/sql.DB", false, "Query QueryRow Exec Begin:BeginTx Prepare Ping")
	delete(m, "(*database/sql.DB).PingContext") // without a tenant it asks the registry, as programs do when they start
	add("*database/sql.Tx", true, "Query QueryRow Exec Prepare")
	add("*database/sql.Stmt", false, "Query QueryRow Exec")
	const sqlx = "*github.com/jmoiron/sqlx."
	add(sqlx+"DB", false, "Get Select Queryx QueryRowx NamedExec MustExec Preparex PrepareNamed Beginx:BeginTxx MustBegin:MustBeginTx")
	add(sqlx+"Tx", true, "Get Select Queryx QueryRowx NamedExec MustExec Preparex PrepareNamed")
	add(sqlx+"Stmt", false, "Get Select Queryx QueryRowx MustExec")
	add(sqlx+"NamedStmt", false, "Get Select Query Queryx QueryRow QueryRowx Exec MustExec")
	return m
}()

// gormFinish are the methods of GORM that end a chain and run it, which they do with the context of WithContext.
var gormFinish = func() map[string]bool {
	m := make(map[string]bool)
	for name := range strings.FieldsSeq("Find First Last Take FindInBatches FirstOrInit FirstOrCreate Create CreateInBatches Save Update " +
		"Updates UpdateColumn UpdateColumns Delete Count Scan Row Rows Pluck Exec Transaction Begin Connection") {
		m["(*"+gormDB+")."+name] = true
	}
	return m
}()

const gormDB = "gorm.io/gorm.DB"

// calleeName is the full name of a function or method that is known at the call, like (*database/sql.DB).Query.
func calleeName(call *ssa.CallCommon) string {
	fn := call.StaticCallee()
	if fn == nil {
		return ""
	}
	if origin := fn.Origin(); origin != nil {
		fn = origin
	}
	if obj, ok := fn.Object().(*types.Func); ok {
		return obj.FullName()
	}
	return ""
}

// handleCall says what a call that returns a database handle opens: a verdict, or the value that decides.
func handleCall(call *ssa.CallCommon) (verdict, ssa.Value) {
	name := calleeName(call)
	switch name {
	case "database/sql.Open", "github.com/jmoiron/sqlx.Open", "github.com/jmoiron/sqlx.MustOpen", "github.com/jmoiron/sqlx.Connect",
		"github.com/jmoiron/sqlx.MustConnect":
		return driverName(call.Args[0]), nil
	case "github.com/jmoiron/sqlx.ConnectContext":
		return driverName(call.Args[1]), nil
	case "database/sql.OpenDB":
		if made, ok := call.Args[0].(*ssa.MakeInterface); ok && types.TypeString(made.X.Type(), nil) == "*"+driver+".Connector" {
			return yes, nil
		}
		return unknown, nil // perhaps ours, in something that wraps connectors
	case "(*" + driver + ".Connector).ShardDB":
		return no, nil
	case "github.com/jmoiron/sqlx.NewDb":
		return elsewhere, call.Args[0]
	}
	if strings.HasPrefix(name, "github.com/jackc/pgx/v5/stdlib.Open") {
		return no, nil
	}
	if fn := call.StaticCallee(); fn != nil && fn.Signature.Recv() != nil && len(call.Args) > 0 {
		switch receiver := types.TypeString(fn.Signature.Recv().Type(), nil); receiver {
		case "*database/sql.DB", "*github.com/jmoiron/sqlx.DB": // a transaction, a statement, or the same with an option
			return elsewhere, call.Args[0]
		case "*database/sql.Tx", "*database/sql.Conn", "*github.com/jmoiron/sqlx.Tx", "*github.com/jmoiron/sqlx.Conn":
			if strings.HasPrefix(fn.Name(), "Prepare") || strings.HasPrefix(fn.Name(), "Stmt") || strings.HasPrefix(fn.Name(), "NamedStmt") {
				return no, nil // its statements belong to a tenant already
			}
			return elsewhere, call.Args[0]
		}
	}
	return elsewhere, nil
}

func driverName(v ssa.Value) verdict {
	c, ok := v.(*ssa.Const)
	if !ok || c.Value == nil {
		return unknown
	}
	if c.Value.ExactString() == `"sharded-pg"` {
		return yes
	}
	return no
}

// contextCall says of a call that returns a context whether it has no tenant for sure: a verdict, or the value that decides.
func contextCall(call *ssa.CallCommon) (verdict, ssa.Value) {
	switch calleeName(call) {
	case "context.Background", "context.TODO":
		return yes, nil
	case "context.WithCancel", "context.WithCancelCause", "context.WithTimeout", "context.WithTimeoutCause", "context.WithDeadline",
		"context.WithDeadlineCause", "context.WithValue", "context.WithoutCancel", "os/signal.NotifyContext",
		"golang.org/x/sync/errgroup.WithContext":
		return elsewhere, call.Args[0]
	}
	return elsewhere, nil
}

// starts are calls that run a function on another goroutine.
var starts = map[string]bool{
	"(*golang.org/x/sync/errgroup.Group).Go": true, "(*golang.org/x/sync/errgroup.Group).TryGo": true,
	"(*sync.WaitGroup).Go": true, "time.AfterFunc": true,
}
