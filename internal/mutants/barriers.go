package mutants

// What the driver itself puts between two tenants, as the names of the mutants that lack it.
const (
	Admission = "admission"
	Prologue  = "the prologue"
	Reset     = "the reset"
)

// Barriers returns a mutant for each of the driver's own barriers; package barriers shows what is left without it. A statement
// without a tenant goes to the shard of the tenant acme there, in nobody's name.
func Barriers() []Mutant {
	return []Mutant{
		{Name: Admission, Breaks: []Edit{
			{root, "	tenant, err := c.c.tenant(ctx) // 1\n	if err != nil {\n", "	tenant, err := c.c.tenant(ctx) // 1\n" +
				"	nobody := errors.Is(err, ErrNoTenant)\n	if nobody {\n		tenant, err = \"acme\", nil\n	}\n	if err != nil {\n"},
			{root, "	return c.acquireFor(ctx, tenant, false)\n", "	b, err := c.acquireFor(ctx, tenant, false)\n" +
				"	if nobody && err == nil {\n		l.settings.Tenant = \"\"\n		b.Arm(&l.settings)\n	}\n	return b, err\n"},
			{root, "	if tenantCase.apply(tenant) != l.tenant {\n", "	if false && tenantCase.apply(tenant) != l.tenant {\n"},
		}},
		{Name: Prologue, Breaks: []Edit{
			{flights, "		dst = s.AppendValue(dst, e.step, i)\n", "		if i > 0 {\n			dst = s.AppendValue(dst, e.step, i)\n		}\n"},
		}},
		{Name: Reset, Breaks: []Edit{
			{flights, addReset, ""},
			{flights, "	if keep && b.wire.used.notPlain {\n", "	if false {\n"},
		}},
	}
}
