Feature: Cancel
  When the call returns, the task's log is sealed: no later token exists, and the slot is free.

  @ORCH-3026
  Scenario: A task is canceled in mid-stream
    Given a daemon whose pool has
      | pace | 20 |
    When I submit task "victim"
    And I follow task "victim"
    And I follow task "victim" as "second"
    Then stream "victim" has 5 tokens
    When I cancel task "victim"
    Then the answer is 200
    And its body has
      | task_id       | {victim}             |
      | outcome       | canceled             |
      | last_event_id | /^[0-9]+-[0-9a-f]{8}$/ |
    And stream "victim" ends with error CANCELED
    And the last event before the error of stream "victim" is the answer's "last_event_id"
    And stream "second" ends with error CANCELED
    And the last event before the error of stream "second" is the answer's "last_event_id"
    And streams "victim" and "second" brought the same bytes
    When I submit task "next"
    And I follow task "next"
    Then stream "next" is "started", tokens, "end"
    And task "victim" is canceled

  @ORCH-3026 @LO-201
  Scenario: A task that asked for it ends when its client goes away
    Given a daemon whose pool has
      | pace     | 3 |
      | replicas | 2 |
    When I submit task "victim" with
      | on_disconnect | "cancel" |
    And I submit task "other" with
      | on_disconnect | "continue" |
    And I follow task "victim"
    And I follow task "other"
    Then stream "victim" has 2 tokens
    And stream "other" has 2 tokens
    When I hang up stream "victim"
    And I hang up stream "other"
    And I follow task "other" as "back"
    Then stream "back" ends with end
    And task "victim" is canceled
    When I follow task "victim" as "afterwards"
    Then stream "afterwards" ends with error CANCELED
    And the error of stream "afterwards" has
      | message | /on_disconnect/ |

  @ORCH-3026
  Scenario: Tokens that the engine still makes are not taken
    Given a daemon in front of a fake engine
    And the fake engine's script is
      """
      {"stepped": true, "tokens": 9}
      """
    When I submit task "victim"
    And I follow task "victim"
    And the fake engine releases 2 tokens
    Then stream "victim" has 2 tokens
    When I cancel task "victim"
    And the fake engine releases 3 tokens
    Then stream "victim" ends with error CANCELED
    And stream "victim" holds 2 token events
    And the last event before the error of stream "victim" is the answer's "last_event_id"
    And the fake engine has come to busy 0
    And the fake engine has come to canceled 1

  @ORCH-3026 @OC-CORE-1005
  Scenario: A queued task is canceled and never dispatched
    Given a daemon in front of a fake engine
    And the fake engine's script is
      """
      {"stepped": true, "tokens": 1}
      """
    When I submit task "running"
    And the fake engine has come to busy 1
    And I submit task "victim"
    And I submit task "behind"
    And I follow task "victim"
    And I cancel task "victim"
    Then the answer is 200
    And its body has
      | outcome       | canceled       |
      | last_event_id | /^0-[0-9a-f]{8}$/ |
    And stream "victim" ends with error CANCELED
    And stream "victim" is "started", "error"
    And the last event before the error of stream "victim" is the answer's "last_event_id"
    And task "behind" stands at position 0
    When the fake engine releases 2 tokens
    Then task "behind" is completed
    And the log places the tasks in the order "running, behind"
    And the log never places task "victim"

  @ORCH-3026
  Scenario: A cancel is idempotent
    Given a daemon whose pool has
      | pace | 20 |
    When I submit task "victim"
    And I follow task "victim"
    Then stream "victim" has 2 tokens
    When I cancel task "victim"
    Then its body has
      | outcome | canceled |
    And I keep its "last_event_id" as $SEAL
    When I cancel task "victim"
    Then the answer is 200
    And its body has
      | outcome       | canceled |
      | last_event_id | $SEAL    |
    And stream "victim" ends with error CANCELED
    When I cancel task "victim"
    Then its body has
      | last_event_id | $SEAL |

  @ORCH-3026
  Scenario: A cancel of a finished task says how it ended
    Given the shared daemon
    When I submit task "done"
    And I follow task "done"
    Then stream "done" ends with end
    When I cancel task "done"
    Then the answer is 200
    And its body has
      | outcome | completed |
    And the last event of stream "done" is the answer's "last_event_id"
    And task "done" is completed

  @ORCH-3026
  Scenario: A cancel of a failed task says how it ended
    Given a daemon in front of a fake engine
    And the fake engine's script is
      """
      {"tokens": 9, "fault": "error_frame", "after": 2}
      """
    When I submit task "failed" with
      | determinism | best_effort |
    And I follow task "failed"
    Then stream "failed" ends with error WORKER_RESET
    When I cancel task "failed"
    Then its body has
      | outcome | failed |
    And the last event of stream "failed" is the answer's "last_event_id"

  @ORCH-3026 @OC-CTRL-2030
  Scenario: A cancel of an unknown task
    Given the shared daemon
    When I send POST "/v1/tasks/no-such-task/cancel"
    Then the answer is 404 NOT_FOUND
    And its message says "no-such-task"

  @ORCH-3026
  Scenario: A slot that stays busy after a cancel is taken out of service
    Given a daemon in front of a fake engine
    And the fake engine's script is
      """
      {"stepped": true, "tokens": 9, "ignore_cancel": true, "times": 1}
      """
    When I submit task "victim"
    And I follow task "victim"
    And the fake engine releases 1 token
    Then stream "victim" has 1 token
    When I cancel task "victim"
    Then the answer is 200
    And stream "victim" ends with error CANCELED
    And the replica "default-0" is taken out of service
    When the fake engine frees its slots
    Then the replica "default-0" is restarted and ready again
    When I submit task "next"
    And I follow task "next"
    Then stream "next" is "started", tokens, "end"

  @ORCH-3026
  Scenario: A client that does not read cannot hold up a cancel
    Given a daemon in front of a fake engine
    And the fake engine's script is 240 tokens of 60000 bytes, one at a time
    When I submit task "victim"
    And I open a stream of task "victim" and never read it
    And I follow task "victim"
    And the fake engine releases 200 tokens
    Then stream "victim" has 200 tokens
    When I cancel task "victim"
    Then the answer is 200
    And stream "victim" ends with error CANCELED
    And the metrics have
      | llorch_stream_cutoffs_total | 1 |
    When I follow task "victim" as "replay"
    Then stream "replay" ends with error CANCELED
    And streams "victim" and "replay" brought the same bytes

  @OC-CORE-1022
  Scenario: An engine that stalls is ended by the idle watchdog
    Given a daemon in front of a fake engine whose pool has
      | timeouts | {wall: 1m, idle: 5s} |
    And the fake engine's script is
      """
      {"tokens": 9, "fault": "stall", "after": 2, "times": 1}
      """
    When I submit task "stalled"
    And I follow task "stalled"
    Then stream "stalled" ends with error DECODE_TIMEOUT
    And stream "stalled" holds 2 token events
    And the fake engine has come to busy 0
    When I submit task "next"
    And I follow task "next"
    Then stream "next" is "started", tokens, "end"

  @LO-836
  Scenario: An engine that is slow with a prompt is given more time than between two tokens
    Given a daemon in front of a fake engine whose pool has
      | timeouts | {wall: 2m, prefill: 1m, idle: 5s} |
    And the fake engine's script is
      """
      {"tokens": 1, "progress": 1, "interval_ms": 6000, "times": 1}
      """
    When I submit task "slow"
    And I follow task "slow"
    Then stream "slow" is "started", tokens, "end"

  @OC-CORE-1022
  Scenario: A task without end is ended by the wall watchdog
    Given a daemon in front of a fake engine whose pool has
      | timeouts | {wall: 600ms, idle: 500ms} |
    And the fake engine's script is
      """
      {"tokens": 200, "interval_ms": 50, "times": 1}
      """
    When I submit task "endless"
    And I follow task "endless"
    Then stream "endless" ends with error DECODE_TIMEOUT
    And the fake engine has come to busy 0
    And task "endless" is failed
