package rls

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
)

const (
	// TokenSetting carries the signed tenant. It is in force as long as the tenant setting is.
	TokenSetting = "shardedpg.ctx" //nolint:gosec // a name, and no secret

	keySize   = 32
	blockSize = 64 // of SHA-256
)

// Key is a secret of the fleet, from which each shard's own is derived. It prints as its ID.
type Key struct {
	ID     string // what tokens call it
	secret [keySize]byte
}

// Keys are those of a key file, oldest first.
type Keys []Key

// ShardKey signs tenants for one shard. Who has it can sign for no other shard. It prints as its ID.
type ShardKey struct {
	ID     string
	secret [keySize]byte
}

// String is the key's ID.
func (k Key) String() string { return "key " + k.ID }

// GoString keeps the secret out of %#v.
func (k Key) GoString() string { return k.String() }

// String is the key's ID.
func (k ShardKey) String() string { return "key " + k.ID }

// GoString keeps the secret out of %#v.
func (k ShardKey) GoString() string { return k.String() }

// For derives the key of a shard.
func (k Key) For(shard string) *ShardKey {
	return &ShardKey{ID: k.ID, secret: sum(k.secret, "sharded-pg shard key\x00"+shard)}
}

// Pads are what the shard keeps of the key: HMAC-SHA-256 is two hashes that begin with one of them each (RFC 2104).
func (k *ShardKey) Pads() (inner, outer []byte) {
	inner, outer = make([]byte, blockSize), make([]byte, blockSize)
	copy(inner, k.secret[:])
	copy(outer, k.secret[:])
	for i := range blockSize {
		inner[i] ^= 0x36
		outer[i] ^= 0x5c
	}
	return inner, outer
}

// Name is the ID with a fingerprint, by which it is told whether a shard has this key. It gives nothing of the key away.
func (k *ShardKey) Name() string {
	inner, _ := k.Pads()
	print := sha256.Sum256(append([]byte("shardedpg fingerprint"), inner...))
	return k.ID + ":" + hex.EncodeToString(print[:8])
}

// AppendToken appends the proof that tenant is who the connection works for: the signature in hex, then what is signed, which
// is the key's ID, the pid of the server process, or 0 if that is not known, the second in which it expires, and the tenant.
func (k *ShardKey) AppendToken(dst []byte, pid uint32, expires int64, tenant string) []byte {
	claim := k.ID + ":" + strconv.FormatUint(uint64(pid), 10) + ":" + strconv.FormatInt(expires, 10) + ":" + tenant
	mac := sum(k.secret, claim)
	dst = hex.AppendEncode(dst, mac[:])
	return append(append(dst, ':'), claim...)
}

func sum(secret [keySize]byte, text string) (out [sha256.Size]byte) {
	h := hmac.New(sha256.New, secret[:])
	_, _ = io.WriteString(h, text)
	h.Sum(out[:0])
	return out
}

// Choose returns the newest key that a shard has, of which it has told the names.
func (k Keys) Choose(shard string, installed []string) (*ShardKey, error) {
	for i := len(k) - 1; i >= 0; i-- {
		own := k[i].For(shard)
		for _, name := range installed {
			if name == own.Name() {
				return own, nil
			}
		}
	}
	var have []string
	for _, name := range installed {
		id, _, _ := strings.Cut(name, ":")
		have = append(have, id)
	}
	return nil, fmt.Errorf("the shard has none of the keys of the key file (%s), but %s; run shardedpg rls keys install",
		strings.Join(k.IDs(), ", "), orNone(have))
}

// IDs are those of the keys, in order.
func (k Keys) IDs() (ids []string) {
	for _, key := range k {
		ids = append(ids, key.ID)
	}
	return ids
}

func orNone(ids []string) string {
	if len(ids) == 0 {
		return "none"
	}
	return strings.Join(ids, ", ")
}

var keyID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,32}$`)

// ParseKeys reads a key file: a line for each key, oldest first, with its ID and 32 random bytes in hex or base64. Empty
// lines and those that begin with # are left out. Errors name lines, and nothing of what is on them.
func ParseKeys(text string) (Keys, error) {
	var keys Keys
	seen := map[string]bool{}
	number := 0
	for line := range strings.SplitSeq(text, "\n") {
		number++
		fields := strings.Fields(line)
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if len(fields) != 2 || !keyID.MatchString(fields[0]) {
			return nil, fmt.Errorf("line %d is no key: write its ID (letters, digits, - and _, 32 at most), a blank, and 32 bytes in hex or base64", number)
		}
		secret, err := decodeSecret(fields[1])
		if err != nil {
			return nil, fmt.Errorf("line %d: the key is not 32 bytes in hex or base64", number)
		}
		if seen[fields[0]] {
			return nil, fmt.Errorf("line %d: another key has this ID", number)
		}
		seen[fields[0]] = true
		keys = append(keys, Key{ID: fields[0], secret: secret})
	}
	if len(keys) == 0 {
		return nil, errors.New("it holds no key; make one with shardedpg rls keys generate")
	}
	return keys, nil
}

func decodeSecret(text string) (secret [keySize]byte, err error) {
	var raw []byte
	if len(text) == 2*keySize {
		raw, err = hex.DecodeString(text)
	} else {
		raw, err = base64.RawStdEncoding.DecodeString(strings.TrimRight(text, "="))
	}
	if err != nil || len(raw) != keySize {
		return secret, errors.New("not a key")
	}
	return [keySize]byte(raw), nil
}
