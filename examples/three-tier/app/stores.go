package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
)

// schemaLock keeps replicas that start together from making the table at the same time;
// the number means nothing to anybody else.
const schemaLock = 7_301_973

// Stores are PostgreSQL and Redis. Safe for concurrent use.
type Stores struct {
	db    *pgxpool.Pool
	cache *redis.Client
}

// Visit is what a request leaves in the stores and finds there.
type Visit struct {
	Rows        int64  `json:"rows"`    // of the table of visits, this one included
	Counter     int64  `json:"counter"` // in Redis
	DBBootID    string `json:"-"`
	CacheBootID string `json:"-"`
}

// openStores connects to the stores that the environment names and makes the table. It
// waits for a database that is not there yet until ctx ends.
func openStores(ctx context.Context, getenv func(string) string) (*Stores, error) {
	config, err := pgxpool.ParseConfig(getenv("DATABASE_URL"))
	if err != nil {
		return nil, fmt.Errorf("reading DATABASE_URL: %w", err)
	}
	if name := getenv("DATABASE_PASSWORD_FILE"); name != "" {
		password, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("reading the password of the database: %w", err)
		}
		config.ConnConfig.Password = strings.TrimRight(string(password), "\n")
	}
	options, err := redis.ParseURL(getenv("REDIS_URL"))
	if err != nil {
		return nil, fmt.Errorf("reading REDIS_URL: %w", err)
	}
	db, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("opening the database: %w", err)
	}
	s := &Stores{db: db, cache: redis.NewClient(options)}
	for {
		err := s.makeTable(ctx)
		if err == nil {
			return s, nil
		}
		slog.Warn("waiting for the database", "error", err)
		select {
		case <-ctx.Done():
			s.Close()
			return nil, fmt.Errorf("making the table of visits: %w", errors.Join(ctx.Err(), err))
		case <-time.After(time.Second):
		}
	}
}

func (s *Stores) makeTable(ctx context.Context) error {
	return pgx.BeginFunc(ctx, s.db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "select pg_advisory_xact_lock($1)", schemaLock); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "create table if not exists visits (id bigint generated always as identity primary key, at timestamptz not null default now())")
		return err
	})
}

// Close ends all connections.
func (s *Stores) Close() {
	s.db.Close()
	s.cache.Close()
}

// Ping says whether both stores answer.
func (s *Stores) Ping(ctx context.Context) error {
	if err := s.db.Ping(ctx); err != nil {
		return fmt.Errorf("database: %w", err)
	}
	if err := s.cache.Ping(ctx).Err(); err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	return nil
}

// Visit records a visit in both stores.
func (s *Stores) Visit(ctx context.Context) (Visit, error) {
	var v Visit
	err := pgx.BeginFunc(ctx, s.db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "insert into visits default values"); err != nil {
			return err
		}
		// The image's user is a superuser, who may read files on the server.
		return tx.QueryRow(ctx, "select count(*), pg_read_file('/proc/sys/kernel/random/boot_id') from visits").Scan(&v.Rows, &v.DBBootID)
	})
	if err != nil {
		return v, fmt.Errorf("database: %w", err)
	}
	v.DBBootID = strings.TrimSpace(v.DBBootID)
	if v.Counter, err = s.cache.Incr(ctx, "visits").Result(); err != nil {
		return v, fmt.Errorf("cache: %w", err)
	}
	// The health check of the cache leaves it there.
	v.CacheBootID, err = s.cache.Get(ctx, "boot-id").Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return v, fmt.Errorf("cache: %w", err)
	}
	return v, nil
}
