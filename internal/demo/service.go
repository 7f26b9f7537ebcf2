package main

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/httptenant"
)

// baseDomain is what tenants' host names end with. Names under localhost need no DNS.
const baseDomain = "localhost"

type order struct {
	ID       int64  `json:"id"`
	Item     string `json:"item"`
	Quantity int    `json:"quantity"`
}

// service is an ordinary HTTP service on an ordinary *sql.DB: no statement in it names a tenant or a shard.
type service struct {
	db *sql.DB
}

// newHandler puts the service behind the tenant middleware, except for one handler: the one that somebody forgot.
func newHandler(db *sql.DB) http.Handler {
	s := &service{db}
	orders := http.NewServeMux()
	orders.HandleFunc("GET /orders", s.list)
	orders.HandleFunc("POST /orders", s.create)

	mux := http.NewServeMux()
	mux.Handle("/orders", httptenant.Middleware(httptenant.FromSubdomain(baseDomain))(orders))
	mux.HandleFunc("GET /forgotten", s.list)
	return mux
}

func (s *service) list(w http.ResponseWriter, r *http.Request) {
	orders, err := s.all(r)
	if err != nil {
		fail(w, err)
		return
	}
	reply(w, http.StatusOK, orders)
}

func (s *service) all(r *http.Request) ([]order, error) {
	rows, err := s.db.QueryContext(r.Context(), `select id, item, quantity from orders order by id`)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	orders := []order{}
	for rows.Next() {
		var o order
		if err := rows.Scan(&o.ID, &o.Item, &o.Quantity); err != nil {
			return nil, err
		}
		orders = append(orders, o)
	}
	return orders, rows.Err()
}

func (s *service) create(w http.ResponseWriter, r *http.Request) {
	var o order
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&o); err != nil || o.Item == "" || o.Quantity < 1 {
		http.Error(w, `the body should read like {"item": "anvil", "quantity": 2}`, http.StatusBadRequest)
		return
	}
	err := s.db.QueryRowContext(r.Context(), `insert into orders (item, quantity) values ($1, $2) returning id`,
		o.Item, o.Quantity).Scan(&o.ID)
	if err != nil {
		fail(w, err)
		return
	}
	reply(w, http.StatusCreated, o)
}

// fail answers with the status that fits an error of the driver. A real service would log the text and not send it.
func fail(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	switch {
	case errors.Is(err, shardedpg.ErrTenantNotFound):
		status = http.StatusNotFound
	case errors.Is(err, shardedpg.ErrTenantDisabled), errors.Is(err, shardedpg.ErrTenantReadOnly):
		status = http.StatusForbidden
	case errors.Is(err, shardedpg.ErrShardBusy), errors.Is(err, shardedpg.ErrShardUnavailable),
		errors.Is(err, shardedpg.ErrRegistryUnavailable):
		status = http.StatusServiceUnavailable
		var refusal *shardedpg.Error
		if errors.As(err, &refusal) && refusal.RetryAfter > 0 {
			w.Header().Set("Retry-After", fmt.Sprint(int(refusal.RetryAfter.Seconds()+0.5)))
		}
	}
	http.Error(w, err.Error(), status)
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client went away: nobody to tell
}
