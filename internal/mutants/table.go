package mutants

// Edit replaces one piece of a package's code by another. The old text occurs exactly once in it.
type Edit struct {
	Folder   string // of the package, from the root of the module
	Old, New string
}

// Mutant is a driver with one rule taken away.
type Mutant struct {
	Name   string
	Phase  string // of the hammer, where it has to be found
	AtEnd  bool   // by what is compared when the time is over, so a short time does
	Breaks []Edit
	Test   string // beside the hammer that has to fail instead: the fault needs a moment that chance seldom hits

	Category string // of the conformance suite that has to fail as well
}

const (
	flights = "internal/backend"
	texts   = "rls"
	root    = "."
)

// decide is where a flight starts to be put together, for a backend outside any transaction.
const decide = "	if w.resetDue() {\n"

// addReset puts the reset in front.
const addReset = "		out = w.reset(out, seg, late)\n"

// addPrologue ends the decision.
const addPrologue = "		return w.behindFirst(out, seg, m, rest, flags, text)\n	}\n	return w.prologue(out, seg), m\n}\n"

// Direct reports whether the mutant's category fails without a pooler.
func (m Mutant) Direct() bool { return m.Phase != "pooler" }

// Table returns all mutants: three ways in which drivers have given connections a tenant before, the numbered traps of
// putting a flight together, and the rules about the reset.
func Table() []Mutant {
	return []Mutant{
		{"tenant fixed when the physical connection is made", "pair", false, []Edit{
			{flights, "	b.wire.set = *s\n", "	if b.wire.set.Tenant == \"\" {\n		b.wire.set = *s\n	}\n"},
			{flights, "	w.set = rls.Settings{}\n", "	_ = rls.Settings{}\n"},
		}, "", "isolation"},
		{"tenant set once for each virtual connection", "pair", false, []Edit{
			{root, "	lease  lease\n", "	lease  lease\n	first  any\n"},
			{root, "	l.settings = rls.For(l.route)\n", "	if c.first == nil {\n		c.first = rls.For(l.route)\n	}\n" +
				"	l.settings = c.first.(rls.Settings)\n"},
		}, "", "isolation"},
		{"session switch that an error takes back", "pair", false, []Edit{
			{texts, `", true) is null"`, `", false) is null"`},
			{flights, addReset, ""},
			{flights, addPrologue, "		return w.behindFirst(out, seg, m, rest, flags, text)\n	}\n" +
				"	if !w.clean && w.owner == w.set.Tenant {\n		w.armed = true\n		return out, m\n	}\n" +
				"	return w.prologue(out, seg), m\n}\n"},
		}, "", "isolation"},
		{"trap 1: a leading BEGIN left alone", "pair", false, []Edit{
			{flights, decide, "	if flags&sqllex.Begin != 0 {\n		return out, m\n	}\n" + decide},
		}, "", "isolation"},
		{"trap 2: unnamed prologue for every exec mode", "pair", false, []Edit{
			{flights, "named: newProtocol(cfg.GUC, cfg.Tagged, false, named, sealedSQL)", "named: newProtocol(cfg.GUC, cfg.Tagged, false, unnamed, sealedSQL)"},
		}, "", "statements"},
		{"trap 3: no reset behind a pooler", "pooler", false, []Edit{
			{flights, "	return w.pooled || !w.clean", "	return !w.clean"},
		}, "", "poolers"},
		{"trap 4: owner changed before the reset was acknowledged", "pair", false, []Edit{
			{flights, "	w.lanes.reset.Add(1)\n", "	w.lanes.reset.Add(1)\n	w.owner, w.clean = w.set.Tenant, false\n"},
			{flights, "	if first && (ours || seg.whole) {\n", "	if first && seg.whole {\n"},
		}, "", "sessions"},
		{"trap 5: tables to be found past a COMMIT", "schemas", true, []Edit{
			{flights, "			cc.RuntimeParams[\"search_path\"] = \"pg_catalog, pg_temp\"\n", ""},
		}, "", "schemas"},
		{"trap 6: a backend kept whose reading of literals has changed", "pair", false, []Edit{
			{
				flights, "		if w.tracked[i] == string(name) && w.tracked[i+1] != string(value) {\n",
				"		if false && w.tracked[i] == string(name) && w.tracked[i+1] != string(value) {\n",
			},
		}, "", "sessions"},
		{"no reset when the tenant changes", "pair", false, []Edit{
			{flights, addReset, ""},
		}, "", "sessions"},
		{"reset that an error takes back", "pair", false, []Edit{
			{flights, "{\"begin\", \"reset all\"", "{\"reset all\""},
			{flights, "\"discard temp\", \"commit\"}\n", "\"discard temp\"}\n"},
		}, "", "sessions"},
		{"prologue not repeated after ROLLBACK TO", "pair", false, []Edit{
			{flights, "	if flags&(sqllex.RollbackTo|sqllex.TxControl) != 0 {", "	if flags&sqllex.TxControl != 0 {"},
		}, "", "transactions"},
		{"batches that pgx writes past the flight", "pooler", false, []Edit{
			{flights, "		return &wrapped{conn, w}, nil\n", "		return conn, nil\n"},
		}, "", "statements"},
		{"statement run again because pgx calls a lost answer safe to retry", "", false, []Edit{
			{root, "	if l.backend.Unanswered() && unsent {", "	if false && unsent {"},
		}, "TestStatementIsNotRunAgainWhenItsAnswerIsLost", "network"},
		{"statement moved out of a lost transaction", "", false, []Edit{
			{root, "	if c.tx.open && c.tx.statements > 1 || l.backend.LeftOpen() {", "	if c.tx.open && c.tx.statements > 1 {"},
		}, "TestConnectionLostInsideHandMadeTransactionEndsIt", "network"},
	}
}
