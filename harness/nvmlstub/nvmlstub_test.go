// SPDX-License-Identifier: GPL-3.0-or-later

package nvmlstub_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/stretchr/testify/require"

	"github.com/llama-orch/llama-orch/harness/nvmlstub"
)

// What is written is what the real binding reads, and what a program claims ends with it, reaped or not.
// LO-501
func TestTheBindingReadsTheState(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "gpus")
	t.Setenv(nvmlstub.Env, path)
	library, err := nvmlstub.Build(dir)
	require.NoError(t, err)
	lib := nvml.New(nvml.WithLibraryPath(library))
	require.Equal(t, nvml.ERROR_DRIVER_NOT_LOADED, lib.Init())

	state := nvmlstub.Reference()
	state.XID(0, 13)
	require.NoError(t, state.Write(path))
	require.Equal(t, nvml.SUCCESS, lib.Init())
	count, ret := lib.DeviceGetCount()
	require.Equal(t, nvml.SUCCESS, ret)
	require.Equal(t, 2, count)
	card, ret := lib.DeviceGetHandleByIndex(1)
	require.Equal(t, nvml.SUCCESS, ret)
	name, ret := card.GetName()
	require.Equal(t, nvml.SUCCESS, ret)
	require.Equal(t, "NVIDIA GeForce RTX 3060", name)

	sleeper := exec.Command("sleep", "1000")
	require.NoError(t, sleeper.Start())
	require.NoError(t, nvmlstub.Claim(path, sleeper.Process.Pid, map[int]int64{0: 1 << 30, 1: 3 << 30}))
	state.Cards[1].Processes = []nvmlstub.Process{{PID: 7, Used: 1 << 30}}
	require.NoError(t, state.Write(path))
	for _, read := range []func() (total, free, used uint64){
		func() (uint64, uint64, uint64) { m, _ := card.GetMemoryInfo(); return m.Total, m.Free, m.Used },
		func() (uint64, uint64, uint64) { m, _ := card.GetMemoryInfo_v2(); return m.Total, m.Free, m.Used },
	} {
		total, free, used := read()
		require.Equal(t, []uint64{12 << 30, 8<<30 - 200<<20, 4<<30 + 200<<20}, []uint64{total, free, used})
	}
	processes, ret := card.GetComputeRunningProcesses()
	require.Equal(t, nvml.SUCCESS, ret)
	require.Len(t, processes, 2)
	require.EqualValues(t, 7, processes[0].Pid)
	require.EqualValues(t, sleeper.Process.Pid, processes[1].Pid)

	require.NoError(t, sleeper.Process.Kill())
	require.Error(t, sleeper.Wait())
	memory, ret := card.GetMemoryInfo()
	require.Equal(t, nvml.SUCCESS, ret)
	require.EqualValues(t, 1<<30+200<<20, memory.Used)

	set, ret := lib.EventSetCreate()
	require.Equal(t, nvml.SUCCESS, ret)
	require.Equal(t, nvml.SUCCESS, card.RegisterEvents(nvml.EventTypeXidCriticalError, set))
	_, ret = set.Wait(0)
	require.Equal(t, nvml.ERROR_TIMEOUT, ret)
	state.XID(1, 79)
	require.NoError(t, state.Write(path))
	event, ret := set.Wait(0)
	require.Equal(t, nvml.SUCCESS, ret)
	require.EqualValues(t, 79, event.EventData)
	require.Equal(t, card, event.Device)
	_, ret = set.Wait(0)
	require.Equal(t, nvml.ERROR_TIMEOUT, ret)

	state.Cards[1].Lost = true
	require.NoError(t, state.Write(path))
	_, ret = card.GetName()
	require.Equal(t, nvml.ERROR_GPU_IS_LOST, ret)
	require.Equal(t, nvml.SUCCESS, lib.Shutdown())
	state.Driver = ""
	require.NoError(t, state.Write(path))
	require.Equal(t, nvml.ERROR_DRIVER_NOT_LOADED, lib.Init())
}

// A process that hides the cards finds none, nor do programs that it starts, although the machine has a driver and cards.
//
// LO-851
func TestCardsAreHidden(t *testing.T) {
	const hide = "LLORCH_TEST_HIDE"
	if dir, child := os.LookupEnv(hide); child { // on the machine that the test below makes
		if dir != "" {
			require.NoError(t, nvmlstub.Hide(dir))
		}
		lib := nvml.New()
		if ret := lib.Init(); ret != nvml.SUCCESS {
			fmt.Println("found:", ret == nvml.ERROR_DRIVER_NOT_LOADED)
			return
		}
		count, _ := lib.DeviceGetCount()
		fmt.Println("found:", count)
		return
	}
	machine := t.TempDir()
	_, err := nvmlstub.Build(machine)
	require.NoError(t, err)
	state := filepath.Join(machine, "cards")
	require.NoError(t, nvmlstub.Reference().Write(state))
	for dir, found := range map[string]string{"": "found: 2\n", t.TempDir(): "found: true\n"} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestCardsAreHidden$")
		cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+machine, nvmlstub.Env+"="+state, hide+"="+dir)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Contains(t, string(out), found)
	}
	hidden := nvmlstub.Hidden("x")
	require.Equal(t, "x", hidden["LD_LIBRARY_PATH"])
	require.NoFileExists(t, hidden[nvmlstub.Env])
}
