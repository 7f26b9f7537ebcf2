// Package tests has a test that does without a tenant on purpose.
package tests
