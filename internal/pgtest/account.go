package pgtest

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
)

// account is the operating system user that servers run as. PostgreSQL and PgBouncer refuse to run as root.
type account struct {
	foreign  bool // another user than this process's: files have to be given to it
	uid, gid int
	name     string
}

func serverAccount() (account, error) {
	if os.Geteuid() != 0 {
		return account{uid: os.Geteuid(), gid: os.Getegid()}, nil
	}
	var problems []error
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		uid, err1 := strconv.Atoi(u.Uid)
		gid, err2 := strconv.Atoi(u.Gid)
		if err := errors.Join(err1, err2); err != nil {
			problems = append(problems, err)
			continue
		}
		return account{foreign: true, uid: uid, gid: gid, name: name}, nil
	}
	return account{}, fmt.Errorf("pgtest: root cannot run a server and has no user postgres or nobody to run it as: %w", errors.Join(problems...))
}

func (a account) own(path string) error {
	if !a.foreign {
		return nil
	}
	return os.Lchown(path, a.uid, a.gid)
}
