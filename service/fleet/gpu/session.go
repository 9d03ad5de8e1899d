// SPDX-License-Identifier: GPL-3.0-or-later

package gpu

import (
	"fmt"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// session is NVML from one initialisation to the next. The monitor's goroutine owns it.
type session struct {
	lib     nvml.Interface
	driver  string
	cuda    string
	devices []nvml.Device // nil: it was lost when the session began
	known   []Card        // what is known of them: name, UUID and size do not change
	ecc     []uint64      // uncorrectable errors so far, if the card counts them
	events  nvml.EventSet // nil: the driver gives none
}

const watched = nvml.EventTypeXidCriticalError | nvml.EventTypeDoubleBitEccError

// open initialises NVML. Before is what was known of the cards, by index, because a lost card does not tell its name.
func open(lib nvml.Interface, before []Card) (s *session, ret nvml.Return) {
	if ret := lib.Init(); ret != nvml.SUCCESS {
		return nil, ret
	}
	s = &session{lib: lib}
	defer func() {
		if ret != nvml.SUCCESS {
			s.close()
			s = nil
		}
	}()
	if s.driver, ret = lib.SystemGetDriverVersion(); ret != nvml.SUCCESS {
		return s, ret
	}
	if version, ret := lib.SystemGetCudaDriverVersion(); ret == nvml.SUCCESS {
		s.cuda = fmt.Sprintf("%d.%d", version/1000, version%1000/10)
	}
	count, ret := lib.DeviceGetCount()
	if ret != nvml.SUCCESS {
		return s, ret
	}
	if count == 0 {
		return s, nvml.ERROR_GPU_NOT_FOUND
	}
	s.devices, s.known, s.ecc = make([]nvml.Device, count), make([]Card, count), make([]uint64, count)
	for i := range count {
		s.known[i] = Card{Index: i}
		if i < len(before) {
			s.known[i] = Card{Index: i, UUID: before[i].UUID, Name: before[i].Name, Total: before[i].Total}
		}
		s.find(i)
	}
	s.watch()
	return s, nvml.SUCCESS
}

// find gets the handle of a card, and what never changes of it. A card that does not answer stays without a handle.
func (s *session) find(i int) {
	device, ret := s.lib.DeviceGetHandleByIndex(i)
	if ret != nvml.SUCCESS {
		return
	}
	uuid, ret := device.GetUUID()
	if ret != nvml.SUCCESS {
		return
	}
	name, ret := device.GetName()
	if ret != nvml.SUCCESS {
		return
	}
	if uuid != s.known[i].UUID {
		s.known[i] = Card{Index: i} // another card has this index now
	}
	s.devices[i], s.known[i].UUID, s.known[i].Name = device, uuid, name
	if count, ret := device.GetTotalEccErrors(nvml.MEMORY_ERROR_TYPE_UNCORRECTED, nvml.VOLATILE_ECC); ret == nvml.SUCCESS {
		s.ecc[i] = count
	}
}

// watch subscribes to the events of the cards, if the driver has events.
func (s *session) watch() {
	set, ret := s.lib.EventSetCreate()
	if ret != nvml.SUCCESS {
		return
	}
	some := false
	for _, device := range s.devices {
		if device == nil {
			continue
		}
		if types, ret := device.GetSupportedEventTypes(); ret == nvml.SUCCESS && types&watched != 0 {
			some = device.RegisterEvents(types&watched, set) == nvml.SUCCESS || some
		}
	}
	if !some {
		_ = set.Free()
		return
	}
	s.events = set
}

func (s *session) close() {
	if s.events != nil {
		_ = s.events.Free()
	}
	_ = s.lib.Shutdown() // a lost driver answers with an error
}

// happening is an event as NVML tells it. XID 0 stands for a memory error.
type happening struct {
	card int
	xid  uint64
}

// atOnce bounds the events that one sample takes. The next sample takes the others.
const atOnce = 64

// happened takes the events that are there. It does not wait for more.
func (s *session) happened() []happening {
	var all []happening
	byEvent := make([]bool, len(s.devices))
	for n := 0; s.events != nil && n < atOnce; n++ {
		data, ret := s.events.Wait(0)
		if ret != nvml.SUCCESS {
			break
		}
		for i, device := range s.devices {
			if device == nil || device != data.Device {
				continue
			}
			switch data.EventType {
			case nvml.EventTypeXidCriticalError:
				all = append(all, happening{i, data.EventData})
			case nvml.EventTypeDoubleBitEccError:
				byEvent[i] = true
				all = append(all, happening{i, 0})
			}
		}
	}
	// If no event tells of memory errors, the card's counter does.
	for i, device := range s.devices {
		if device == nil {
			continue
		}
		count, ret := device.GetTotalEccErrors(nvml.MEMORY_ERROR_TYPE_UNCORRECTED, nvml.VOLATILE_ECC)
		if ret != nvml.SUCCESS {
			continue
		}
		if count > s.ecc[i] && !byEvent[i] {
			all = append(all, happening{i, 0})
		}
		s.ecc[i] = count
	}
	return all
}

// read samples every card. Lost says, by index, why a card did not answer. The result is SUCCESS unless the whole driver is gone: it says
// so itself, or no card answers.
func (s *session) read() (cards []Card, lost map[int]nvml.Return, ret nvml.Return) {
	cards, lost = make([]Card, len(s.devices)), map[int]nvml.Return{}
	for i := range s.devices {
		ret := s.card(i)
		switch ret {
		case nvml.SUCCESS:
		case nvml.ERROR_UNINITIALIZED, nvml.ERROR_DRIVER_NOT_LOADED, nvml.ERROR_LIB_RM_VERSION_MISMATCH:
			return nil, nil, ret
		default:
			lost[i] = ret
		}
		cards[i] = s.known[i]
	}
	if len(lost) == len(cards) {
		return nil, nil, lost[0]
	}
	return cards, lost, nvml.SUCCESS
}

// card reads one card into its place in known. A card must tell its memory, and may leave out the rest.
func (s *session) card(i int) nvml.Return {
	c, device := &s.known[i], s.devices[i]
	*c = Card{Index: i, UUID: c.UUID, Name: c.Name, Total: c.Total}
	if device == nil {
		return nvml.ERROR_GPU_IS_LOST
	}
	// The processes come first. What a process takes between the two calls is then counted twice, which is better than not at all.
	processes, ret := device.GetComputeRunningProcesses()
	if ret != nvml.SUCCESS && ret != nvml.ERROR_NOT_SUPPORTED {
		return ret
	}
	memory, ret := device.GetMemoryInfo()
	if ret != nvml.SUCCESS {
		return ret
	}
	c.Total, c.Free, c.Used, c.Healthy = int64(memory.Total), int64(memory.Free), int64(memory.Used), true
	for _, p := range processes {
		bytes := max(0, int64(p.UsedGpuMemory)) // -1 (all bits set): the driver does not tell
		c.Processes = append(c.Processes, Process{PID: int(p.Pid), Bytes: bytes})
	}
	if rates, ret := device.GetUtilizationRates(); ret == nvml.SUCCESS {
		c.Utilization = float64(rates.Gpu) / 100
	}
	if degrees, ret := device.GetTemperature(nvml.TEMPERATURE_GPU); ret == nvml.SUCCESS {
		c.Temperature = int(degrees)
	}
	if milliwatts, ret := device.GetPowerUsage(); ret == nvml.SUCCESS {
		c.Power = float64(milliwatts) / 1000
	}
	return nvml.SUCCESS
}

// counters reads the cards' counters of energy. A driver renews them every 20 to 100 ms.
func (s *session) counters(now func() time.Time) []Counter {
	all := make([]Counter, len(s.devices))
	for i, device := range s.devices {
		all[i] = Counter{Card: i, UUID: s.known[i].UUID, At: now()}
		if device == nil {
			continue
		}
		if millijoules, ret := device.GetTotalEnergyConsumption(); ret == nvml.SUCCESS {
			all[i].Joules = float64(millijoules) / 1000
		}
	}
	return all
}

// useless says why NVML cannot be used, and what to do.
func useless(ret nvml.Return) string {
	const orCPU = "; or say `device: cpu` for the pools that are to decode on the CPU"
	switch ret {
	case nvml.ERROR_LIBRARY_NOT_FOUND:
		return "the NVIDIA driver is not installed (no libnvidia-ml.so.1): install it, with `pacman -S nvidia nvidia-utils` on Arch or `apt install nvidia-driver` on Debian" + orCPU
	case nvml.ERROR_DRIVER_NOT_LOADED:
		return "the NVIDIA driver is installed but not loaded: load it with `modprobe nvidia`, or restart the machine if it was just installed or upgraded" + orCPU
	case nvml.ERROR_LIB_RM_VERSION_MISMATCH:
		return "the NVIDIA driver was upgraded while its old kernel module is still loaded: restart the machine"
	case nvml.ERROR_NO_PERMISSION, nvml.ERROR_OPERATING_SYSTEM:
		return "the NVIDIA driver may not be used by this user: give it access to /dev/nvidia* (on Debian, the group `video`)" + orCPU
	case nvml.ERROR_GPU_NOT_FOUND:
		return "the NVIDIA driver has no card: look at `nvidia-smi` and `lspci`" + orCPU
	case nvml.ERROR_GPU_IS_LOST, nvml.ERROR_RESET_REQUIRED:
		return "the cards do not answer the NVIDIA driver any more: look at `dmesg`, and restart the machine if they don't come back"
	default:
		return fmt.Sprintf("the NVIDIA driver does not answer (NVML error %d): look at `nvidia-smi` and `dmesg`%s", int(ret), orCPU)
	}
}

// silent says why a single card does not answer.
func silent(ret nvml.Return) string {
	if ret == nvml.ERROR_RESET_REQUIRED {
		return "the card has to be reset before it can be used again: `nvidia-smi --gpu-reset`, or restart the machine"
	}
	return fmt.Sprintf("the card does not answer the driver (NVML error %d): look at `dmesg`, and restart the machine if it does not come back", int(ret))
}
