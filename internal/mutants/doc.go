// Package mutants breaks the driver on purpose, one rule at a time, and requires that the hammer and the conformance
// suite notice. A rule whose absence nothing notices is a rule that the next change may drop.
//
// A mutant is a set of replacements in the driver's source, compiled by go test's -overlay: the tree stays as it is. When
// the text to be replaced is no longer there, the test says so, and the mutant has to be written again for the new code.
package mutants
