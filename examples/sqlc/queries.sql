-- name: ListOrders :many
select o.id, o.item, o.quantity, c.name as customer
from orders o join customers c on c.id = o.customer_id
order by o.id;

-- name: AddCustomer :one
insert into customers (name) values ($1) returning id;

-- name: AddOrder :one
insert into orders (customer_id, item, quantity) values ($1, $2, $3) returning id;

-- name: RaiseQuantities :exec
update orders set quantity = quantity % 7 + sqlc.arg(by)::integer;

-- name: Sleep :exec
select pg_sleep(300)::text /* slow */;

-- name: AddOrders :exec
insert into orders (customer_id, item, quantity)
select sqlc.arg(customer_id), unnest(sqlc.arg(items)::text[]), unnest(sqlc.arg(quantities)::integer[]);
