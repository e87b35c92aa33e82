package logs

import (
	"errors"
	"io"
	"iter"
)

// Merged is a record and the index of the reader it came from.
type Merged struct {
	Reader int
	Record
}

// Merge yields the records that are there now of several logs in the order of
// time; those of one log keep their order. It ends at the first error.
func Merge(readers []*Reader) iter.Seq2[Merged, error] {
	return func(yield func(Merged, error) bool) {
		next := make([]*Record, len(readers))
		advance := func(i int) error {
			rec, err := readers[i].Next()
			switch {
			case errors.Is(err, io.EOF):
				next[i] = nil
			case err != nil:
				return err
			default:
				next[i] = &rec
			}
			return nil
		}
		for i := range readers {
			if err := advance(i); err != nil {
				yield(Merged{}, err)
				return
			}
		}
		for {
			first := -1
			for i, r := range next {
				if r != nil && (first < 0 || r.Time.Before(next[first].Time)) {
					first = i
				}
			}
			if first < 0 || !yield(Merged{first, *next[first]}, nil) {
				return
			}
			if err := advance(first); err != nil {
				yield(Merged{}, err)
				return
			}
		}
	}
}
