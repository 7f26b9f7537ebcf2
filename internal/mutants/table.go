package mutants

// Edit replaces one piece of a file by another. The old text occurs exactly once.
type Edit struct {
	File     string // from the root of the module
	Old, New string
}

// Mutant is a driver with one rule taken away.
type Mutant struct {
	Name   string
	Phase  string // of the hammer, where it has to be found
	Breaks []Edit
}

const (
	wireFile     = "internal/backend/wire.go"
	replyFile    = "internal/backend/reply.go"
	releaseFile  = "internal/backend/release.go"
	backendFile  = "internal/backend/backend.go"
	protocolFile = "internal/backend/protocol.go"
	poolFile     = "internal/backend/pool.go"
	dialFile     = "internal/backend/dial.go"
	prologueFile = "rls/prologue.go"
	leaseFile    = "lease.go"
)

// decide is where a flight starts to be put together, for a backend outside any transaction.
const decide = "	if w.pooled || !w.clean && w.owner != w.set.Tenant {\n"

// addReset puts the reset in front.
const addReset = "		out = append(out, w.proto.reset...)\n		seg.reset, seg.drop = w.proto.resetN, w.proto.resetN\n"

// addPrologue ends the decision.
const addPrologue = "		return w.behindFirst(out, seg, m, rest, flags, text)\n	}\n	return w.prologue(out, seg), m\n}\n"

// Table returns all mutants: three ways in which drivers have given connections a tenant before, the numbered traps of
// putting a flight together, and the rules about the reset.
func Table() []Mutant {
	return []Mutant{
		{"tenant fixed when the physical connection is made", "pair", []Edit{
			{backendFile, "	b.wire.set = *s\n", "	if b.wire.set.Tenant == \"\" {\n		b.wire.set = *s\n	}\n"},
			{releaseFile, "	w.set = rls.Settings{}\n", "	_ = rls.Settings{}\n"},
		}},
		{"tenant set once for each virtual connection", "pair", []Edit{
			{leaseFile, "	\"strings\"\n", "	\"strings\"\n	\"sync\"\n"},
			{leaseFile, "	l.settings = rls.For(route)\n", "	first, _ := firstOf.LoadOrStore(c, rls.For(route))\n" +
				"	l.settings = first.(rls.Settings)\n"},
			{leaseFile, "func (l *lease) held() bool", "var firstOf sync.Map\n\nfunc (l *lease) held() bool"},
		}},
		{"session switch that an error takes back", "pair", []Edit{
			{prologueFile, `", true) is not null"`, `", false) is not null"`},
			{wireFile, addReset, ""},
			{wireFile, addPrologue, "		return w.behindFirst(out, seg, m, rest, flags, text)\n	}\n" +
				"	if !w.clean && w.owner == w.set.Tenant {\n		w.armed = true\n		return out, m\n	}\n" +
				"	return w.prologue(out, seg), m\n}\n"},
		}},
		{"trap 1: a leading BEGIN left alone", "pair", []Edit{
			{wireFile, decide, "	if flags&sqllex.Begin != 0 {\n		return out, m\n	}\n" + decide},
		}},
		{"trap 2: unnamed prologue for every exec mode", "pair", []Edit{
			{poolFile, "named: newProtocol(cfg.GUC, true)", "named: newProtocol(cfg.GUC, false)"},
		}},
		{"trap 3: no reset behind a pooler", "pooler", []Edit{
			{wireFile, decide, "	if !w.clean && w.owner != w.set.Tenant {\n"},
		}},
		{"trap 4: owner changed before the reset was acknowledged", "pair", []Edit{
			{wireFile, "		w.lanes.reset.Add(1)\n", "		w.lanes.reset.Add(1)\n		w.owner, w.clean = w.set.Tenant, false\n"},
			{replyFile, "	if ours || seg.whole {\n", "	if seg.whole {\n"},
		}},
		{"trap 5: tables to be found past a COMMIT", "schemas", []Edit{
			{dialFile, "			cc.RuntimeParams[\"search_path\"] = \"pg_catalog, pg_temp\"\n", ""},
		}},
		{"trap 6: a backend kept whose reading of literals has changed", "pair", []Edit{
			{replyFile, "		if w.tracked[i] == string(name) && w.tracked[i+1] != string(value) {\n",
				"		if false && w.tracked[i] == string(name) && w.tracked[i+1] != string(value) {\n"},
		}},
		{"no reset when the tenant changes", "pair", []Edit{
			{wireFile, addReset, ""},
		}},
		{"reset that an error takes back", "pair", []Edit{
			{protocolFile, "	\"begin\", \"set session authorization default\"", "	\"set session authorization default\""},
			{protocolFile, "\"discard temp\", \"commit\",\n", "\"discard temp\",\n"},
		}},
		{"prologue not repeated after ROLLBACK TO", "pair", []Edit{
			{wireFile, "	if flags&sqllex.RollbackTo != 0 {\n		w.rearm = true\n", "	if flags&sqllex.RollbackTo != 0 {\n"},
		}},
	}
}
