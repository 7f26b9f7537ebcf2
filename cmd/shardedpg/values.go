package main

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"path"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/resolver"
	"github.com/sharded-pg/sharded-pg/rls"
)

// tenantID is checked before the registry is asked.
type tenantID string

func (id *tenantID) UnmarshalText(given []byte) error {
	*id = tenantID(given)
	return resolver.ValidTenantID(string(given))
}

// line is text for the audit log, or what is looked for there.
type line string

func (l *line) UnmarshalText(given []byte) error {
	*l = line(given)
	if !utf8.Valid(given) || bytes.ContainsFunc(given, unicode.IsControl) || len(given) > 500 {
		return errors.New("that is no line of text: use at most 500 bytes without control characters")
	}
	return nil
}

// identifier is a name in PostgreSQL, which cuts longer ones silently, and then it may be another one's.
type identifier string

func (i *identifier) UnmarshalText(given []byte) error {
	*i = identifier(given)
	if len(given) == 0 || len(given) > 63 || !utf8.Valid(given) || bytes.ContainsFunc(given, unicode.IsControl) {
		return errors.New("that is no name in PostgreSQL: use 1 to 63 bytes without control characters")
	}
	return nil
}

// setting is the name of a setting of our own.
type setting string

func (s *setting) UnmarshalText(given []byte) error {
	*s = setting(given)
	return rls.CheckGUC(string(given))
}

// pattern is a name with * for any characters.
type pattern string

func (p *pattern) UnmarshalText(given []byte) error {
	*p = pattern(given)
	if _, err := path.Match(string(given), ""); err != nil || len(given) == 0 {
		return errors.New("that is no pattern: write names, with * for any characters")
	}
	return nil
}

// texts are values of such a type as strings.
func texts[T ~string](values []T) []string {
	all := make([]string, len(values))
	for i, v := range values {
		all[i] = string(v)
	}
	return all
}

// timeout is a statement timeout such as 30s, or unlimited.
type timeout time.Duration

func (t *timeout) UnmarshalText(given []byte) error {
	d, err := registry.ParseTimeout(string(given))
	if err == nil && (d < time.Millisecond || d != resolver.Unlimited && d%time.Millisecond != 0) {
		err = fmt.Errorf("%v is not at least 1ms in whole milliseconds: write unlimited for no limit", d)
	}
	*t = timeout(d)
	return err
}

// size is a number of bytes, written as PostgreSQL does: 64MB.
type size int64

func (s *size) UnmarshalText(given []byte) error {
	for i, unit := range []string{"kB", "MB", "GB", "TB"} {
		number, found := strings.CutSuffix(string(given), unit)
		if !found {
			continue
		}
		factor := int64(1) << (10 * (i + 1))
		n, err := strconv.ParseInt(number, 10, 64)
		if err != nil || n < 1 || n > math.MaxInt64/factor {
			break
		}
		*s = size(n * factor)
		return nil
	}
	return fmt.Errorf("%q is no size: write a whole number and a unit, kB, MB, GB or TB, such as 64MB", given)
}

// showSize writes bytes with the largest unit that needs no fraction.
func showSize(n int64) string {
	units := []string{"B", "kB", "MB", "GB", "TB"}
	i := 0
	for ; i < len(units)-1 && n >= 1024 && n%1024 == 0; i++ {
		n /= 1024
	}
	return strconv.FormatInt(n, 10) + units[i]
}

// roughSize writes measured bytes for people.
func roughSize(n int64) string {
	units := []string{"B", "kB", "MB", "GB", "TB"}
	f, i := float64(n), 0
	for ; i < len(units)-1 && f >= 1024; i++ {
		f /= 1024
	}
	return fmt.Sprintf("%.3g%s", f, units[i])
}

// most is how many tenants a shard takes, or unlimited.
type most int

func (m *most) UnmarshalText(given []byte) error {
	if string(given) == "unlimited" {
		*m = registry.UnlimitedTenants
		return nil
	}
	n, err := strconv.Atoi(string(given))
	if err != nil || n < 1 || n > registry.UnlimitedTenants {
		return fmt.Errorf("%q is no number of tenants: write 1 or more, or unlimited", given)
	}
	*m = most(n)
	return nil
}

func showMost(n int) string {
	if n == registry.UnlimitedTenants {
		return "unlimited"
	}
	return strconv.Itoa(n)
}

// limits are those of plans and of overrides. What is not given stays zero.
type limits struct {
	StatementTimeout timeout  `placeholder:"30s" help:"Longest time of a statement, or unlimited."`
	WorkMem          size     `placeholder:"16MB" help:"Memory of a sort or hash, at least 64kB."`
	MaxConns         *int     `placeholder:"N" help:"Connections to its shard that a tenant may use at once, in each program."`
	Rate             *float64 `placeholder:"N" help:"Statements per second, in each program; 0 for no limit."`
	Burst            *int     `placeholder:"N" help:"Statements at once after a quiet time; 0 for those of two seconds of the rate."`
	Weight           *int     `placeholder:"N" help:"Share of a busy shard, against other tenants."`
}

// Validate is called by kong.
func (l *limits) Validate() error {
	switch {
	case l.MaxConns != nil && (*l.MaxConns < 1 || *l.MaxConns > math.MaxInt32):
		return fmt.Errorf("--max-conns is %d: use at least 1", *l.MaxConns)
	case l.Weight != nil && (*l.Weight < 1 || *l.Weight > math.MaxInt32):
		return fmt.Errorf("--weight is %d: use at least 1", *l.Weight)
	case l.WorkMem != 0 && (l.WorkMem < 64<<10 || l.WorkMem > math.MaxInt32<<10):
		return fmt.Errorf("--work-mem is %s: PostgreSQL takes 64kB to 2147483647kB", showSize(int64(l.WorkMem)))
	case l.Rate != nil && (!(*l.Rate >= 0) || math.IsInf(*l.Rate, 0)):
		return fmt.Errorf("--rate is %v: use statements per second, or 0 for no limit", *l.Rate)
	case l.Burst != nil && (*l.Burst < 0 || *l.Burst > math.MaxInt32):
		return fmt.Errorf("--burst is %d: use statements at once, or 0 for those of two seconds of the rate", *l.Burst)
	}
	return nil
}

func (l *limits) empty() bool { return *l == limits{} }
