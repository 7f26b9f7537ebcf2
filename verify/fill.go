package verify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// inserter makes one row and returns columns of it.
type inserter func(ctx context.Context, sql string, args []any, columns int) ([]*string, error)

// attempts is how many rows are tried for one table before it is given up.
const attempts = 120

// seed makes the rows of both tenants in a table, and before them those that they refer to. Each tenant makes its own through
// the driver, as its application would, where it has the right; what it may not make, the administrator does.
func (s *scene) seed(ctx context.Context, t *table) error {
	if t.seeded {
		return nil
	}
	t.seeded = true // first, so that tables that refer to each other come to an end
	for i := range s.ids {
		values, err := s.values(ctx, t, i)
		if err == nil {
			t.rows[i], err = s.insertRow(ctx, t, i, values)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			t.rows, t.reason = [2]row{}, err.Error()
			return nil
		}
	}
	return nil
}

// values are those of a new row of a tenant: what the table asks for, and references to the tenant's own rows.
func (s *scene) values(ctx context.Context, t *table, who int) (map[string]*string, error) {
	values := map[string]*string{}
	if t.Type != "" {
		values[s.TenantColumn] = &s.ids[who]
	}
	keyed := map[string]bool{} // columns that are part of a key take no default that is the same for all
	for _, k := range t.keys {
		for _, name := range k.Columns {
			keyed[name] = true
		}
	}
	for _, c := range t.columns {
		if _, set := values[c.Name]; set || c.Generated || c.Default || !c.Required && !keyed[c.Name] && c.Category != "S" {
			continue
		}
		value, ok := c.fresh()
		if ok {
			values[c.Name] = &value
		} else if c.Required {
			return nil, fmt.Errorf("the run knows no value of type %s for column %q", c.Type, c.Name)
		}
	}
	for _, f := range t.foreign {
		if err := s.refer(ctx, t, f, who, values); err != nil {
			return nil, err
		}
	}
	return values, nil
}

// refer makes the values of a foreign key those of a row that is there.
func (s *scene) refer(ctx context.Context, t *table, f foreignKey, who int, values map[string]*string) error {
	parent := s.byOID[f.Parent]
	found, why := map[string]*string{}, ""
	required := slices.ContainsFunc(f.From, func(name string) bool { return name != s.TenantColumn && t.column(name).Required })
	switch {
	case parent == nil:
		why = "which the run cannot see"
	case len(f.From) == 1 && f.From[0] == s.TenantColumn:
		return s.tenantRow(ctx, parent, f.To[0], who)
	case !required && !parent.seeded && (s.schema || parent.Type != ""): // null for now: tables may refer to each other
		why = "which has no row yet"
	case s.schema, parent.Type == t.Type:
		seed := s.seed
		if s.schema {
			seed = s.seedOwn
		}
		if err := seed(ctx, parent); err != nil {
			return err
		}
		if found = parent.rows[who].values; found == nil {
			why = cmp.Or(parent.reason, "which refers back to it")
		}
	case parent.Type != "":
		why = "whose tenants have IDs of another type"
	default:
		columns := make([]string, len(f.To))
		for i, name := range f.To {
			columns[i] = ident(name) + "::text"
		}
		got, err := s.asAdmin(ctx, "select "+strings.Join(columns, ", ")+" from "+parent.ident()+" limit 1", nil, len(columns))
		if err != nil {
			why = "which has no row, and whose rows have no tenant"
		}
		for i, value := range got {
			found[f.To[i]] = value
		}
	}
	if why == "" {
		for i, name := range f.From {
			if name != s.TenantColumn {
				values[name] = found[f.To[i]]
			}
		}
		return nil
	}
	if required {
		return fmt.Errorf("it refers to %s, %s", s.nameOf(f.Parent), why)
	}
	for _, name := range f.From {
		if name != s.TenantColumn {
			values[name] = nil
		}
	}
	return nil
}

func (s *scene) nameOf(oid uint32) string {
	if t := s.byOID[oid]; t != nil {
		return t.name()
	}
	return "a table"
}

// tenantRow makes the row that stands for a tenant in a table of tenants, whose key is the tenant's ID.
func (s *scene) tenantRow(ctx context.Context, parent *table, column string, who int) error {
	if s.alone(parent) {
		return fmt.Errorf("it refers to %s, in a schema that is left alone", parent.name())
	}
	if s.registered[parent.OID] == nil {
		s.registered[parent.OID] = &[2]bool{}
	}
	if s.registered[parent.OID][who] {
		return nil
	}
	values, err := s.values(ctx, parent, who)
	if err != nil {
		return fmt.Errorf("it refers to %s: %w", parent.name(), err)
	}
	values[column] = &s.ids[who]
	if _, err := s.insertRow(ctx, parent, who, values); err != nil {
		return fmt.Errorf("it refers to %s: %w", parent.name(), err)
	}
	s.registered[parent.OID][who] = true
	return nil
}

// insertRow makes a row, and changes values until checks that refuse it are content.
func (s *scene) insertRow(ctx context.Context, t *table, who int, values map[string]*string) (row, error) {
	return s.settle(ctx, t, who, values, s.asTenant(who))
}

// insertable returns values that the server would take from a tenant.
func (s *scene) insertable(ctx context.Context, t *table, who int) (map[string]*string, error) {
	values, err := s.values(ctx, t, who)
	if err == nil {
		_, err = s.settle(ctx, t, who, values, trial(s.asTenant(who)))
	}
	return values, err
}

func (s *scene) settle(ctx context.Context, t *table, who int, values map[string]*string, into inserter) (row, error) {
	tries := 0
	for {
		r, err := s.insert(ctx, t, into, values)
		if errors.Is(err, errTrial) {
			return r, nil
		}
		if tries++; err == nil || tries > attempts || ctx.Err() != nil {
			return r, err
		}
		var refused *pgconn.PgError
		if !errors.As(err, &refused) {
			return r, err
		}
		switch {
		case refused.Code == "42501" && !s.privileged:
			s.privileged = true
			defer func() { s.privileged = false }()
			if _, err := s.admin.Exec(ctx, "select set_config($1, $2, false)", s.GUC, s.ids[who]); err != nil {
				return r, err
			}
			return s.settle(ctx, t, who, values, into)
		case refused.Code == "23514" && refused.ConstraintName != "":
			if !s.please(ctx, t, into, values, refused.ConstraintName, &tries) {
				return r, fmt.Errorf("the run finds no values that check %q takes", refused.ConstraintName)
			}
		case refused.Code == "23502" && refused.ColumnName != "" && values[refused.ColumnName] == nil:
			value, ok := t.column(refused.ColumnName).fresh()
			if !ok {
				return r, fmt.Errorf("the run knows no value for column %q", refused.ColumnName)
			}
			values[refused.ColumnName] = &value
		case refused.Code == "23505" && tries < 5:
			t.refresh(refused.ConstraintName, s.TenantColumn, values)
		default:
			return r, short(err)
		}
	}
}

// refresh gives the columns of a key other values.
func (t *table) refresh(keyName, tenantColumn string, values map[string]*string) {
	for _, k := range t.keys {
		for _, name := range k.Columns {
			if value, ok := t.column(name).fresh(); ok && k.Name == keyName && name != tenantColumn && values[name] != nil && !t.refers(name) {
				values[name] = &value
			}
		}
	}
}

func (t *table) refers(column string) bool {
	return slices.ContainsFunc(t.foreign, func(f foreignKey) bool { return slices.Contains(f.From, column) })
}

func (s *scene) insert(ctx context.Context, t *table, into inserter, values map[string]*string) (row, error) {
	sql, args := insertSQL(t, values)
	returning := make([]string, len(t.columns))
	for i, c := range t.columns {
		returning[i] = ident(c.Name) + "::text"
	}
	got, err := into(ctx, sql+" returning "+strings.Join(returning, ", ")+", ctid::text, tableoid::text", args, len(t.columns)+2)
	if err != nil {
		return row{}, err
	}
	r := row{values: map[string]*string{}, ctid: *got[len(t.columns)], tid: *got[len(t.columns)+1]}
	for i, c := range t.columns {
		r.values[c.Name] = got[i]
	}
	return r, nil
}

// insertSQL binds each value as text and casts it on the server.
func insertSQL(t *table, values map[string]*string) (sql string, args []any) {
	var names, places []string
	for _, c := range t.columns {
		value, set := values[c.Name]
		if !set || c.Generated {
			continue
		}
		args = append(args, value)
		names = append(names, ident(c.Name))
		places = append(places, "$"+strconv.Itoa(len(args))+"::text::"+c.Type)
	}
	return "insert into " + t.ident() + " (" + strings.Join(names, ", ") + ") overriding system value values (" + strings.Join(places, ", ") + ")", args
}

var (
	quoted  = regexp.MustCompile(`'((?:[^']|'')*)'`)
	numbers = regexp.MustCompile(`-?\d+(?:\.\d+)?`)
)

// checkSQL returns the text of a check of a table, or of a domain, and the columns that it is about.
const checkSQL = `select pg_get_constraintdef(c.oid), array_to_string(array(select a.attname from pg_attribute a where a.attrelid = $1::text::oid
   and (c.conrelid <> 0 and a.attnum = any (c.conkey) or c.contypid <> 0 and a.atttypid = c.contypid)), chr(31))
  from pg_constraint c where c.contype = 'c' and c.conname = $2 and (c.conrelid = $1::text::oid
    or c.contypid in (select a.atttypid from pg_attribute a where a.attrelid = $1::text::oid and c.contypid <> 0)) limit 1`

// please looks for a value of one column that a check takes: what its own text has in it, and what is usual.
func (s *scene) please(ctx context.Context, t *table, into inserter, values map[string]*string, check string, tries *int) bool {
	got, err := s.asAdmin(ctx, checkSQL, []any{t.id(), check}, 2)
	if err != nil {
		return false
	}
	more := usual()
	candidates := slices.Clone(more[:6]) // first what is new each time: the column may be part of a key
	for _, m := range quoted.FindAllStringSubmatch(*got[0], -1) {
		candidates = append(candidates, strings.ReplaceAll(m[1], "''", "'"))
	}
	for _, n := range numbers.FindAllString(*got[0], -1) {
		candidates = append(candidates, n)
		if i, err := strconv.ParseInt(n, 10, 64); err == nil {
			candidates = append(candidates, strconv.FormatInt(i+1, 10), strconv.FormatInt(i-1, 10))
		}
	}
	for _, name := range strings.Split(*got[1], "\x1f") {
		if name == s.TenantColumn || name == "" || t.refers(name) {
			continue
		}
		was, set := values[name]
		for _, candidate := range append(candidates, more[6:]...) {
			if *tries++; *tries > attempts {
				return false
			}
			values[name] = &candidate
			_, err := s.insert(ctx, t, trial(into), values)
			var refused *pgconn.PgError
			if errors.Is(err, errTrial) || errors.As(err, &refused) &&
				(refused.Code == "42501" || strings.HasPrefix(refused.Code, "23") && refused.ConstraintName != check) {
				return true
			}
		}
		if values[name] = was; !set {
			delete(values, name)
		}
	}
	return false
}

// errTrial ends an insert that would have gone through.
var errTrial = errors.New("trial")

// trial lets the server check a row and then refuse it: the division fails in RETURNING, behind all checks.
func trial(into inserter) inserter {
	return func(ctx context.Context, sql string, args []any, columns int) ([]*string, error) {
		at := strings.LastIndex(sql, " returning ")
		_, err := into(ctx, sql[:at]+" returning (1 / (length(ctid::text) - length(ctid::text)))::text", args, 1)
		if code(err) == "22012" {
			return nil, errTrial
		}
		return nil, err
	}
}

// short is an error of the server without what it says about rows.
func short(err error) error {
	var answer *pgconn.PgError
	if errors.As(err, &answer) {
		return fmt.Errorf("%s (SQLSTATE %s)", answer.Message, answer.Code)
	}
	return err
}
