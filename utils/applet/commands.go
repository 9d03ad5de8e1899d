// SPDX-License-Identifier: GPL-3.0-or-later

package applet

import (
	"context"

	"github.com/llama-orch/llama-orch/utils/exec"
)

func commands() Catalog {
	return Catalog{
		acting(New("exec.run", "Runs an allowed command in a folder of its own, within bounds.", func(ctx context.Context, env *Env, in exec.Command) (exec.Result, error) {
			if env.Exec == nil {
				return exec.Result{}, &NeedError{Applet: "exec.run", What: "a list of allowed commands"}
			}
			if env.Guard != nil {
				if err := env.Guard.Command(in.Name, in.Args...); err != nil {
					return exec.Result{}, err
				}
			}
			result, err := exec.Run(ctx, *env.Exec, in)
			if err != nil {
				return exec.Result{}, err
			}
			return *result, nil
		})),
	}
}
