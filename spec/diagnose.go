package spec

import (
	"context"
)

func (l *loading) diagnose(ctx context.Context, err error) error {
	return &Error{Err: err}
}
