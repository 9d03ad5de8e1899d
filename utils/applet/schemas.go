// SPDX-License-Identifier: GPL-3.0-or-later

package applet

import (
	"context"
	"errors"

	"github.com/llama-orch/llama-orch/utils/schema"
)

func schemas() Catalog {
	return Catalog{
		New("schema.check", "Says where a value is not what a JSON schema allows.", func(_ context.Context, _ *Env, in CheckIn) (CheckOut, error) {
			s, err := schema.Compile(in.Schema)
			if err != nil {
				return CheckOut{}, err
			}
			err = s.Check(in.Value)
			if wrong, ok := errors.AsType[*schema.MismatchError](err); ok {
				return CheckOut{Problems: wrong.Problems}, nil
			}
			return CheckOut{Fits: err == nil}, err
		}),
	}
}
