package pgtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// makeCertificate makes a key and a self-signed certificate for 127.0.0.1 in the server's folder.
func (s *Server) makeCertificate() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := time.Now()
	template := x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "127.0.0.1"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour), BasicConstraintsValid: true, IsCA: true,
	}
	certificate, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	write := func(path, kind string, der []byte) error {
		text := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
		return errors.Join(os.WriteFile(path, text, 0o600), s.as.own(path)) // PostgreSQL refuses a key that others may read
	}
	return errors.Join(write(s.certificate(), "CERTIFICATE", certificate), write(s.key(), "PRIVATE KEY", secret))
}

func (s *Server) certificate() string { return filepath.Join(s.dir.path, "server.crt") }
func (s *Server) key() string         { return filepath.Join(s.dir.path, "server.key") }
