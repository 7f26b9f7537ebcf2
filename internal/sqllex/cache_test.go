package sqllex_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/internal/sqllex"
)

func TestTheCacheSaysWhatTheScanSays(t *testing.T) {
	t.Parallel()
	cache := sqllex.NewCache()
	var texts []string
	for _, tc := range verdicts {
		texts = append(texts, tc.sql, strings.Repeat(" ", 3000)+tc.sql)
	}
	for i := range 3000 { // more than there are places: some of them share one
		texts = append(texts, fmt.Sprintf("select %d, set_config('a.b', '', false)", i), fmt.Sprintf("select %d; commit", i))
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 2 {
				for _, sql := range texts {
					if sqllex.Scan(sql) != cache.Scan([]byte(sql)) {
						t.Errorf("%q", sql)
					}
				}
			}
		})
	}
	wg.Wait()
}

func TestTheCacheKeepsItsOwnCopyOfAText(t *testing.T) {
	t.Parallel()
	cache := sqllex.NewCache()
	buf := []byte("select 1")
	cache.Scan(buf)
	copy(buf, "commit; ")
	require.Equal(t, sqllex.Scan("commit; "), cache.Scan(buf))
	require.Equal(t, sqllex.Scan("select 1"), cache.Scan([]byte("select 1")))
}

func TestALookupInTheCacheDoesNotAllocate(t *testing.T) { // not parallel: AllocsPerRun counts the whole process
	cache := sqllex.NewCache()
	sql := []byte("select id, email, name from customers where id = $1")
	require.Zero(t, testing.AllocsPerRun(100, func() { cache.Scan(sql) }))
}

func BenchmarkCache(b *testing.B) {
	for name, sql := range benchTexts {
		b.Run(name+"/again", func(b *testing.B) {
			cache := sqllex.NewCache()
			b.ReportAllocs()
			for b.Loop() {
				cache.Scan(sql)
			}
		})
		b.Run(name+"/first look", func(b *testing.B) {
			cache := sqllex.NewCache()
			b.ReportAllocs()
			text := append([]byte("        "), sql...)
			for i := 0; b.Loop(); i++ { // another text each time
				for j := range 8 {
					text[j] = " \t\n\r"[i>>(2*j)&3]
				}
				cache.Scan(text)
			}
		})
	}
}
