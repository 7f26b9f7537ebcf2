// Package connstring reads the connection string of a shard as the driver does, and says what is wrong with one without repeating it.
package connstring

import (
	"errors"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Parse reads a connection string for one connection. What it says of a pool (pool_max_conn_lifetime and the like) is the driver's to
// follow and left out: pgx's own parser would send it to the server, which knows no such setting.
func Parse(text string) (*pgx.ConnConfig, error) {
	cfg, err := pgxpool.ParseConfig(text)
	if err != nil {
		return nil, Reason(err)
	}
	return cfg.ConnConfig, nil
}

// Reason is what pgx has against a connection string: the option, and the file if it names one. pgx's own text quotes the string and
// masks its password as well as it can, which is not well enough; what it quotes besides may be a password that was not put in quotes.
func Reason(err error) error {
	text := err.Error()
	end := strings.LastIndex(text, "`: ") // of the string
	if end < 0 {
		return errors.New("it cannot be read")
	}
	what, cause, found := strings.Cut(text[end+len("`: "):], " (")
	switch {
	case found && (what == "failed to configure TLS" || what == "failed to read service"):
		return errors.New(strings.TrimSuffix(cause, ")"))
	case strings.HasPrefix(what, "failed to parse as "):
		return errors.New("it is broken, perhaps by characters of a password that have to be escaped")
	}
	return errors.New(what)
}
