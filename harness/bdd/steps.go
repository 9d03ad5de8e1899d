// SPDX-License-Identifier: GPL-3.0-or-later

package bdd

// define registers a step: it is godog's ScenarioContext.Step, or a function that looks through the definitions.
type define func(expr string, fn any)

// steps registers all step definitions. Each says what it does or checks, in words that a client of the API knows.
func (w *world) steps(step define) {
	w.daemonSteps(step)
	w.recoverySteps(step)
	w.operateSteps(step)
	w.poolSteps(step)
	w.modelSteps(step)
	w.fakeSteps(step)
	w.commandSteps(step)
	w.taskSteps(step)
	w.followSteps(step)
	w.streamSteps(step)
	w.errorSteps(step)
	w.metricsSteps(step)
	w.logSteps(step)
	w.gpuSteps(step)
	w.hubSteps(step)
	w.sourceSteps(step)
	w.artifactSteps(step)
	w.chatSteps(step)
	w.engineSteps(step)
	w.batchSteps(step)
	w.responseSteps(step)
}
