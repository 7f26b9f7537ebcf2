// Package schema is what the program knows of its tables. The tenant column is not among it: the tables fill it.
package schema

import (
	"entgo.io/ent"
	"entgo.io/ent/schema/edge"
	"entgo.io/ent/schema/field"
)

// Customer has orders.
type Customer struct{ ent.Schema }

// Fields of a customer.
func (Customer) Fields() []ent.Field {
	return []ent.Field{field.Int64("id"), field.String("name").Unique()}
}

// Edges of a customer.
func (Customer) Edges() []ent.Edge {
	return []ent.Edge{edge.To("orders", Order.Type)}
}
