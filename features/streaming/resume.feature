Feature: Resuming a stream
  An event's id says what a client holds. Any number of clients can name their last id, and go on without a gap or a repeat.

  @LO-201
  Scenario Outline: A live stream goes on behind the last event seen
    Given a daemon whose pool has
      | pace | 20 |
    When I submit task "long"
    And I follow task "long" as "whole"
    And I follow task "long" as "cut"
    Then stream "cut" has 4 tokens
    When I hang up stream "cut"
    And I follow task "long" as "resumed", behind event 3 of "cut" by <way>
    Then streams "whole" and "resumed" brought the same bytes
    And stream "resumed" is "started", tokens, "end"

    Examples:
      | way           |
      | Last-Event-ID |
      | after         |
      | both          |

  @LO-201
  Scenario: Several clients get the same bytes, whenever they come
    Given a daemon whose pool has
      | pace | 20 |
    When I submit task "shared"
    And I follow task "shared" as "a"
    And I follow task "shared" as "b"
    Then stream "a" has 5 tokens
    When I follow task "shared" as "c"
    Then streams "a" and "b" brought the same bytes
    And streams "a" and "c" brought the same bytes
    When I follow task "shared" as "d"
    Then streams "a" and "d" brought the same bytes

  @LO-201 @LO-827
  Scenario: A finished task is replayed, whole or in part
    Given the shared daemon
    When I submit task "done"
    And I follow task "done" as "live"
    Then stream "live" is "started", tokens, "end"
    When I follow task "done" as "replay"
    Then streams "live" and "replay" brought the same bytes
    When I follow task "done" as "part", behind event 0 of "live" by after
    Then streams "live" and "part" brought the same bytes
    When I follow task "done" as "nothing", behind the last event of "live"
    Then stream "nothing" is empty

  @LO-201
  Scenario: A canceled task is replayed as it was sealed
    Given a daemon whose pool has
      | pace | 20 |
    When I submit task "sealed"
    And I follow task "sealed" as "live"
    Then stream "live" has 3 tokens
    When I cancel task "sealed"
    Then stream "live" ends with error CANCELED
    When I follow task "sealed" as "replay"
    Then stream "replay" ends with error CANCELED
    And streams "live" and "replay" brought the same bytes

  @LO-201
  Scenario: A client that holds other events is told so, and the task goes on
    Given a daemon whose pool has
      | pace | 30 |
    When I submit task "mine"
    And I follow task "mine" as "true"
    Then stream "true" has 3 tokens
    When I follow task "mine" as "false", behind event 2 of "true" with another hash
    Then stream "false" ends with error WORKER_RESET
    And stream "true" ends with end

  @LO-201 @OC-CTRL-2030
  Scenario Outline: A malformed id is refused
    Given the shared daemon
    When I submit task "refused"
    And I follow task "refused"
    Then stream "refused" ends with end
    When I send GET "/v1/tasks/{refused}/stream?after=<id>"
    Then the answer is 400 INVALID_PARAMS
    And its message says "after"

    Examples:
      | id                   |
      | x                    |
      | 1                    |
      | 1-                   |
      | 1-ABCDEF01           |
      | 01-abcdef01          |
      | -1-abcdef01          |
      | 1-abcdef0            |
      | 1-abcdef012          |
      | 99999999999999999999-abcdef01 |

  @LO-201 @OC-CTRL-2030
  Scenario: A malformed Last-Event-ID header is refused
    Given the shared daemon
    When I submit task "refused"
    And I send GET "/v1/tasks/{refused}/stream" with the headers
      | Last-Event-ID | seven |
    Then the answer is 400 INVALID_PARAMS
    And its message says "Last-Event-ID"

  @LO-201 @OC-CTRL-2030
  Scenario: An id beyond the end of the log is refused
    Given the shared daemon
    When I submit task "refused"
    And I follow task "refused"
    Then stream "refused" ends with end
    When I send GET "/v1/tasks/{refused}/stream?after=1000-abcdef01"
    Then the answer is 400 INVALID_PARAMS
    And its message says "no event 1000"

  @LO-826
  Scenario: Where a header and a query differ, the header counts
    Given the shared daemon
    When I submit task "refused"
    And I follow task "refused"
    And I keep the id of event 2 of stream "refused" as $TWO
    And I send GET "/v1/tasks/{refused}/stream?after=1000-abcdef01" with the headers
      | Last-Event-ID | $TWO |
    Then the answer is 200

  @LO-201 @ORCH-3026
  Scenario: A client that does not read holds up nobody
    Given a daemon in front of a fake engine
    And the fake engine's script is 200 tokens of 60000 bytes
    When I submit task "large"
    And I open a stream of task "large" and never read it
    And I follow task "large"
    Then stream "large" is "started", tokens, "end"
    And stream "large" holds 200 token events
