// SPDX-License-Identifier: GPL-3.0-or-later

// Command bench measures what the orchestrator costs on the way of a token: added latency, time to the first token, CPU and memory. A plain reverse
// proxy runs beside it for comparison. It also measures what a short task costs, and a chat on a front, and what it costs to accept a task and to
// start again. The stub engine, the proxy and the daemons are processes of their own; this program is the client.
//
//	go run ./harness/bench          all of it, under 9 minutes
//	go run ./harness/bench -quick   fewer and shorter rounds, under 3 minutes
package main
