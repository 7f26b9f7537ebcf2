//go:build !unix

package main

func neverStop() {}
