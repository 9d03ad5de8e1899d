// SPDX-License-Identifier: GPL-3.0-or-later

// Command agent is a whole agent with one tool: it answers a question about the files of a folder, which the model reads by calling the tool.
//
//	go run ./examples/agent MODEL FOLDER QUESTION
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/llama-orch/llama-orch/sdk"
	"github.com/llama-orch/llama-orch/utils/fs"
	"github.com/llama-orch/llama-orch/utils/llm"
	"github.com/llama-orch/llama-orch/utils/tool"
)

func main() {
	if len(os.Args) != 4 {
		check(errors.New("give a model, a folder and a question"))
	}
	model, folder, question := os.Args[1], os.Args[2], os.Args[3]
	client, err := sdk.New(sdk.Options{Addr: cmp.Or(os.Getenv("LLORCH_ADDR"), "http://127.0.0.1:8080"), Token: os.Getenv("LLORCH_API_TOKEN")})
	check(err)
	root, err := fs.Open(folder, fs.Limits{})
	check(err)
	result, err := ask(context.Background(), client, root, model, question)
	check(err)
	fmt.Printf("%s\n(%d calls, transcript %s)\n", result.Answer.Text, len(result.Calls), result.Answer.Receipt.TranscriptSHA256)
}

// ask has the model read what it wants to see, until it answers.
func ask(ctx context.Context, caller llm.Caller, root *fs.Root, model, question string) (*tool.Result, error) {
	read := tool.New("read", "Reads a file of the folder.", func(_ context.Context, in struct {
		Path string `json:"path" jsonschema:"description=the file's name below the folder"`
	},
	) (string, error) {
		content, err := root.Read(in.Path)
		return string(content), err
	})
	loop := tool.Loop{Tools: []tool.Tool{read}}
	return loop.Run(ctx, caller, &sdk.TaskRequest{ModelRef: model, Messages: []sdk.Message{sdk.Say(sdk.RoleUser, question)}})
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
