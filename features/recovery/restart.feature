Feature: A restart loses nothing
  Accepted tasks outlive the daemon, however it ends. The queue keeps its order, strict streams go on byte for byte where their clients stopped,
  and ended tasks stay as clients were told.

  @LO-202 @LO-201 @LO-204
  Scenario Outline: A strict stream goes on behind the last event seen, after a kill -9
    Given a daemon whose pool has
      | replicas | 2  |
      | pace     | 15 |
    When I submit task "long" with
      | seed | 7 |
    And I follow task "long" as "cut"
    Then stream "cut" has <tokens> tokens
    When I kill the daemon
    Then stream "cut" breaks off
    And no worker of it is left
    When I start the daemon again
    And I follow task "long" as "resumed", from where "cut" broke off
    And I follow task "long" as "whole"
    And I submit task "undisturbed" with
      | seed | 7 |
    And I follow task "undisturbed"
    Then stream "resumed" is "started", tokens, "end"
    And streams "resumed" and "whole" brought the same bytes
    And streams "resumed" and "undisturbed" have the same tokens
    And the receipts of "resumed" and "undisturbed" agree in "transcript_sha256"
    And the receipts of "resumed" and "undisturbed" agree in "fingerprint"
    And the receipts of "resumed" and "undisturbed" agree in "request_digest"
    And task "long" is completed

    Examples:
      | tokens |
      | 12     |
      | 3      |

  @LO-202 @LO-201
  Scenario: It goes on after two of them
    Given a daemon whose pool has
      | pace | 15 |
    When I submit task "long" with
      | seed | 7 |
    And I follow task "long" as "first"
    Then stream "first" has 10 tokens
    When I kill the daemon
    Then stream "first" breaks off
    When I start the daemon again at once
    And I follow task "long" as "second", from where "first" broke off
    Then stream "second" has 14 tokens
    When I kill the daemon
    Then stream "second" breaks off
    When I start the daemon again
    And I follow task "long" as "third", from where "second" broke off
    And I follow task "long" as "whole"
    Then streams "third" and "whole" brought the same bytes
    And stream "third" is "started", tokens, "end"

  @LO-202 @LO-201
  Scenario: A strict task that a stop does not wait for goes on at the next start
    Given a pool "default" of built-in workers with
      | pace | 15 |
    And a daemon that may take "1s" to stop
    When I submit task "long" with
      | seed | 7 |
    And I follow task "long" as "cut"
    Then stream "cut" has 3 tokens
    When I send the daemon SIGTERM
    Then stream "cut" breaks off
    And the daemon exits with 0
    And no worker of it is left
    When I start the daemon again
    And I follow task "long" as "resumed", from where "cut" broke off
    And I follow task "long" as "whole"
    Then stream "resumed" is "started", tokens, "end"
    And streams "resumed" and "whole" brought the same bytes

  @LO-202 @ORCH-3004 @OC-CORE-1004
  Scenario Outline: Queued tasks keep order and priority over <what>
    Given a fake engine with 1 slot
    And the fake engine's script is
      """
      {"stepped": true, "tokens": 1, "match": "haiku"}
      """
    And a pool "default" in front of the fake engine with
      | timeouts | {wall: 1m, idle: 1m} |
    And a daemon that may take "1s" to stop
    When I submit task "running"
    And the fake engine has come to busy 1
    And I submit a batch task "b1"
    And I submit a batch task "b2"
    And I submit an interactive task "i1"
    And I submit an interactive task "i2"
    And I follow task "running" as "cut-running"
    And I follow task "b1" as "cut-b1"
    Then stream "cut-running" has begun
    And stream "cut-b1" has begun
    When I <end> the daemon
    Then stream "cut-running" breaks off
    And stream "cut-b1" breaks off
    And the fake engine has come to busy 0
    When I start the daemon again
    And the fake engine has come to busy 1
    Then task "running" is running
    And task "i1" stands at position 0
    And task "i2" stands at position 1
    And task "b1" stands at position 2
    And task "b2" stands at position 3
    When I follow task "running" as "running", from where "cut-running" broke off
    And I follow task "b1" as "b1", from where "cut-b1" broke off
    And I submit an interactive task "i3"
    Then the answer is 202
    When the fake engine releases 6 tokens
    Then the log places the tasks in the order "running, i1, i2, i3, b1, b2"
    And stream "running" is "started", tokens, "end"
    And stream "b1" is "started", tokens, "end"
    And task "b2" is completed

    Examples:
      | what      | end  |
      | a kill -9 | kill |
      | a SIGTERM | stop |

  @LO-202
  Scenario: What comes back does not count against the queue's bound
    Given a fake engine with 1 slot
    And the fake engine's script is
      """
      {"stepped": true, "tokens": 1, "match": "haiku"}
      """
    And a daemon in front of a fake engine whose pool has
      | queue | {capacity: 2, full_policy: reject} |
    When I submit task "running"
    And the fake engine has come to busy 1
    And I submit task "one"
    And I submit task "two"
    And I submit task "refused"
    Then the answer is 429 ADMISSION_REJECT
    When I kill the daemon
    And the fake engine has come to busy 0
    And I start the daemon again
    And I submit task "refused"
    Then the answer is 429 ADMISSION_REJECT
    When the fake engine releases 3 tokens
    Then the log places the tasks in the order "running, one, two"
    And task "two" is completed

  @LO-202 @LO-201 @ORCH-3026 @LO-101
  Scenario Outline: What was told before <what> is told after it
    Given a daemon in front of a fake engine
    And the fake engine's script is
      """
      {"stepped": true, "tokens": 4, "match": "haiku"}
      """
    When I submit task "done" with
      | task_id | done-1 |
    And I follow task "done" as "live-done"
    And the fake engine releases 4 tokens
    Then stream "live-done" is "started", tokens, "end"
    When I submit task "canceled"
    And I follow task "canceled" as "live-canceled"
    And the fake engine releases 2 tokens
    Then stream "live-canceled" has 2 tokens
    When I submit task "waiting"
    And I cancel task "waiting"
    And I cancel task "canceled"
    Then its body has
      | outcome | canceled |
    And I keep its "last_event_id" as $SEAL
    And stream "live-canceled" ends with error CANCELED
    When I <end> the daemon
    And I start the daemon again
    And I follow task "done" as "replay-done"
    And I follow task "done" as "part", behind event 2 of "live-done" by Last-Event-ID
    And I follow task "canceled" as "replay-canceled"
    And I follow task "waiting" as "replay-waiting"
    Then streams "live-done" and "replay-done" brought the same bytes
    And streams "live-done" and "part" brought the same bytes
    And stream "replay-canceled" ends with error CANCELED
    And streams "live-canceled" and "replay-canceled" brought the same bytes
    And stream "replay-waiting" ends with error CANCELED
    And stream "replay-waiting" is "started", "error"
    When I cancel task "canceled"
    Then its body has
      | outcome       | canceled |
      | last_event_id | $SEAL    |
    When I cancel task "done"
    Then its body has
      | outcome | completed |
    And the last event of stream "replay-done" is the answer's "last_event_id"
    When I submit task "again" with
      | task_id | done-1 |
    Then the answer is the same as the admission of task "done"
    When I submit task "other" with
      | task_id  | done-1 |
      | priority | batch  |
    Then the answer is 409 CONFLICT
    When I send GET "/v1/tasks?state=canceled"
    Then its body lists 2 "tasks"
    And the log never places task "waiting"

    Examples:
      | what      | end  |
      | a kill -9 | kill |
      | a stop    | stop |

  @LO-202 @OC-CTRL-2030
  Scenario: A best-effort task that ran when the daemon was killed ends with WORKER_RESET
    Given a daemon in front of a fake engine
    And the fake engine's script is
      """
      {"stepped": true, "tokens": 4, "match": "haiku"}
      """
    When I submit task "victim" with
      | determinism | best_effort |
    And I follow task "victim" as "cut"
    And the fake engine releases 2 tokens
    Then stream "cut" has 2 tokens
    When I submit task "queued" with
      | determinism | best_effort |
    And I kill the daemon
    Then stream "cut" breaks off
    And the fake engine has come to busy 0
    When the fake engine releases 4 tokens
    And I start the daemon again
    And I follow task "queued"
    And I follow task "victim" as "resumed", from where "cut" broke off
    Then stream "resumed" ends with error WORKER_RESET
    And the error of stream "resumed" has
      | retriable | true     |
      | pool_id   | default  |
      | engine    | llamacpp |
    When I follow task "victim" as "whole"
    Then stream "whole" ends with error WORKER_RESET
    And stream "whole" is "started", "error"
    And task "victim" is failed
    And the log never places task "victim"
    And stream "queued" is "started", tokens, "end"

  @LO-202 @OC-CTRL-2030
  Scenario: A deadline keeps running while the daemon is down
    Given a daemon in front of a fake engine
    And the fake engine's script is
      """
      {"stepped": true, "tokens": 1, "match": "haiku"}
      """
    When I submit task "running"
    And the fake engine has come to busy 1
    And I submit task "late" with
      | deadline_ms | 1500 |
    And I kill the daemon
    Then task "late" is past its deadline of 1500 ms
    And the fake engine has come to busy 0
    When the fake engine releases 2 tokens
    And I start the daemon again
    And I follow task "late"
    Then stream "late" ends with error DEADLINE_UNMET
    And stream "late" is "started", "error"
    And task "running" is completed
    And the log never places task "late"

  @LO-202 @OC-CTRL-2030
  Scenario: A task whose pool is no longer configured ends with POOL_UNAVAILABLE
    Given a daemon in front of a fake engine
    And the fake engine's script is
      """
      {"stepped": true, "tokens": 1, "match": "haiku"}
      """
    When I submit task "orphan"
    And the fake engine has come to busy 1
    And I stop the daemon
    And the pool is configured under the name "other"
    And I start the daemon again
    And I follow task "orphan"
    Then stream "orphan" ends with error POOL_UNAVAILABLE
    And the error of stream "orphan" has
      | retriable | true    |
      | pool_id   | default |
    And task "orphan" is failed

  @LO-201 @OC-CTRL-2030
  Scenario: An id beyond the end of a finished log is refused with the valid range, after a restart too
    Given a daemon in front of a fake engine
    And the fake engine's script is
      """
      {"tokens": 3, "match": "haiku"}
      """
    When I submit task "done"
    And I follow task "done"
    Then stream "done" ends with end
    When I send GET "/v1/tasks/{done}/stream?after=5-abcdef01"
    Then the answer is 400 INVALID_PARAMS
    And its message says "valid are 0 to 4"
    When I kill the daemon
    And I start the daemon again
    And I send GET "/v1/tasks/{done}/stream" with the headers
      | Last-Event-ID | 5-abcdef01 |
    Then the answer is 400 INVALID_PARAMS
    And its message says "valid are 0 to 4"
