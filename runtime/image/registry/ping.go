package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
)

// Ping returns nil as soon as one way to a registry answers HTTP at all: what it
// then allows whom is another question. Its error has one line per way.
func (c *Client) Ping(ctx context.Context, host string) error {
	var faults []error
	for _, e := range c.endpoints(Repository{Host: host}) {
		err := c.ping(ctx, e)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s does not answer: %w", e.name, context.Cause(ctx))
		}
		faults = append(faults, fmt.Errorf("%s does not answer: %w", e.name, err))
	}
	return errors.Join(faults...)
}

func (c *Client) ping(ctx context.Context, e *endpoint) error {
	t, err := c.transport(e)
	if err != nil {
		return err
	}
	u := url.URL{Scheme: "https", Host: e.host, Path: "/v2/"}
	if e.plain {
		u.Scheme = "http"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", userAgent)
	resp, err := t.RoundTrip(req)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}
