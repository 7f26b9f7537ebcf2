package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// client speaks to the service as the tenants' browsers would. Its connections go to addr whatever the host name is, so
// that it works on machines that do not resolve names under localhost.
type client struct {
	http *http.Client
	addr string
}

func newClient(addr string) *client {
	return &client{http: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}, addr: addr}
}

// do sends one request for a host name and returns the status and the body. An answer that says when to come back is
// tried again, as a well-made client would.
func (c *client) do(ctx context.Context, method, host, path, body string) (status int, text string, err error) {
	for range 5 {
		var again time.Duration
		status, text, again, err = c.once(ctx, method, host, path, body)
		if err != nil || again == 0 {
			break
		}
		select {
		case <-time.After(again):
		case <-ctx.Done():
			return status, text, ctx.Err()
		}
	}
	return status, text, err
}

func (c *client) once(ctx context.Context, method, host, path, body string) (int, string, time.Duration, error) {
	r, err := http.NewRequestWithContext(ctx, method, "http://"+c.addr+path, strings.NewReader(body))
	if err != nil {
		return 0, "", 0, err
	}
	r.Host = host
	answer, err := c.http.Do(r)
	if err != nil {
		return 0, "", 0, err
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	again, _ := strconv.Atoi(answer.Header.Get("Retry-After"))
	return answer.StatusCode, strings.TrimSpace(string(text)), time.Duration(again) * time.Second, err
}

// seen is what one tenant was shown.
type seen struct {
	own, others int
	lists       int // how often it asked, each while the other tenants were writing
}

// run lets all tenants make and list their orders at once, several requests of each at a time. An item starts with the
// name of the tenant that ordered it, so a row of somebody else is known by sight, whatever the database says.
func (c *client) run(ctx context.Context) (map[string]*seen, int, error) {
	result := make(map[string]*seen, len(customers))
	requests := 0
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(32)
	var jobs []func() error
	for _, customer := range customers {
		s := &seen{}
		result[customer.ID] = s
		for n := range customer.orders {
			jobs = append(jobs, func() error { return c.order(groupCtx, customer.ID, n) })
		}
	}
	rand.Shuffle(len(jobs), func(i, j int) { jobs[i], jobs[j] = jobs[j], jobs[i] })
	lists := make(chan listed, len(jobs))
	for i, job := range jobs {
		requests++
		group.Go(job)
		if tenant := customers[i/3%len(customers)].ID; i%3 == 0 {
			requests++
			group.Go(func() error { return c.list(groupCtx, tenant, lists) })
		}
	}
	if err := group.Wait(); err != nil {
		return nil, requests, err
	}
	for _, customer := range customers {
		requests++
		if err := c.list(ctx, customer.ID, lists); err != nil {
			return nil, requests, err
		}
	}
	close(lists)
	for l := range lists { // the last list of a tenant is the one after everything was written
		s := result[l.tenant]
		s.own, s.others, s.lists = l.own, s.others+l.others, s.lists+1
	}
	return result, requests, nil
}

type listed struct {
	tenant      string
	own, others int
}

func (c *client) order(ctx context.Context, tenant string, n int) error {
	body := fmt.Sprintf(`{"item": "%s-%d", "quantity": %d}`, tenant, n, 1+n%7)
	status, text, err := c.do(ctx, http.MethodPost, tenant+"."+baseDomain, "/orders", body)
	if err == nil && status != http.StatusCreated {
		err = fmt.Errorf("order of %s: status %d: %s", tenant, status, text)
	}
	return err
}

func (c *client) list(ctx context.Context, tenant string, to chan<- listed) error {
	status, text, err := c.do(ctx, http.MethodGet, tenant+"."+baseDomain, "/orders", "")
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("list of %s: status %d: %s", tenant, status, text)
	}
	var orders []order
	if err := json.Unmarshal([]byte(text), &orders); err != nil {
		return err
	}
	l := listed{tenant: tenant}
	for _, o := range orders {
		if strings.HasPrefix(o.Item, tenant+"-") {
			l.own++
		} else {
			l.others++
		}
	}
	to <- l
	return nil
}
