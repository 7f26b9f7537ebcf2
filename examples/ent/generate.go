package main

//go:generate go run entgo.io/ent/cmd/ent generate --target ./store ./schema
