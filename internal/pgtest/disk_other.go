//go:build !linux

package pgtest

import "errors"

var errNoDisk = errors.New("pgtest: a small disk can be made on Linux only")

func (s *Server) makeDisk(string) error { return errNoDisk }

// FillDisk leaves no room on the server's small disk, and says by what means.
func (s *Server) FillDisk() (how string, err error) { return "", errNoDisk }

// FreeDisk makes room again.
func (s *Server) FreeDisk() error { return errNoDisk }

func unmountBelow(string) error { return nil }
