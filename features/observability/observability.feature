Feature: What the operator sees
  Metrics count what was streamed, the log tells in plain sentences what happened to each task, and a correlation id joins the two.

  @ORCH-3028 @ORCH-2002
  Scenario: The metrics move by what was streamed
    Given a daemon whose pool has
      | replicas | 1 |
    And I note the metrics
    When I submit an interactive task "a"
    And I follow task "a"
    Then stream "a" is "started", tokens, "end"
    And the metrics have moved by
      | tasks_enqueued_total{engine="llamacpp",pool_id="default",replica_id="",priority="interactive"}        | 1              |
      | tasks_started_total{engine="llamacpp",pool_id="default",replica_id="default-0",priority="interactive"} | 1              |
      | tokens_in_total{engine="llamacpp",pool_id="default",replica_id="default-0"}                           | tokens_in of a |
      | tokens_out_total{engine="llamacpp",pool_id="default",replica_id="default-0"}                          | tokens of a    |
      | latency_first_token_ms_count{pool_id="default",priority="interactive"}                                | 1              |
      | latency_decode_ms_count{pool_id="default",priority="interactive"}                                     | 1              |
      | placement_decisions_total{outcome="placed",pinned="false",fallback="false"}                           | 1              |
      | llorch_tasks_finished_total{pool_id="default",outcome="completed"}                                    | 1              |
      | queue_depth{pool_id="default",priority="interactive"}                                                 | 0              |
    And every series is in the metrics contract, with its labels and values
    And the metrics have
      | queue_depth{pool_id="default",priority="interactive"}     | 0 |
      | queue_depth{pool_id="default",priority="batch"}           | 0 |
      | model_state{model_id="haiku",state="Active"}              | 1 |
      | llorch_replica_state{replica_id="default-0",state="ready"} | 1 |
      | llorch_streams_open                                       | 0 |
      | llorch_build_info                                         | 1 |

  @ORCH-3028
  Scenario: Cancels, refusals and full queues are counted
    Given a daemon in front of a fake engine whose pool has
      | queue | {capacity: 1, full_policy: reject} |
    And the fake engine's script is
      """
      {"stepped": true, "tokens": 9}
      """
    When I submit task "running"
    And I follow task "running"
    And the fake engine releases 2 tokens
    Then stream "running" has 2 tokens
    When I submit a batch task "waiting"
    Then the metrics have
      | queue_depth{pool_id="default",priority="batch"} | 1 |
    When I submit a batch task "refused"
    Then the answer is 429 ADMISSION_REJECT
    When I submit task "unknown" with
      | model_ref | sonnet |
    Then the answer is 404 MODEL_NOT_FOUND
    When I cancel task "waiting"
    And I cancel task "running"
    Then stream "running" ends with error CANCELED
    And the metrics have
      | tasks_canceled_total{pool_id="default",replica_id="",reason="client"}          | 1 |
      | tasks_canceled_total{pool_id="default",replica_id="default-0",reason="client"} | 1 |
      | tasks_rejected_total{engine="llamacpp",reason="admission_reject"}              | 1 |
      | tasks_rejected_total{engine="none",reason="model_not_found"}                   | 1 |
      | admission_backpressure_events_total{engine="llamacpp",policy="reject"}         | 1 |
      | tokens_out_total{pool_id="default",replica_id="default-0"}                     | 2 |
      | llorch_tasks_finished_total{pool_id="default",outcome="canceled"}              | 2 |
      | queue_depth{pool_id="default",priority="batch"}                                | 0 |
    And every series is in the metrics contract, with its labels and values

  @ORCH-3027 @ORCH-3300
  Scenario: Each step of a task's way is told in a plain sentence
    Given a daemon
    When I send POST "/v1/tasks" with the headers
      | X-Correlation-Id | night-shift:7                                                                                        |
      | Content-Type     | application/json                                                                                     |
      | body             | {"model_ref": "haiku", "prompt": "Write a haiku about owls.\\n\\n", "task_id": "owls", "session_id": "3f8a1c9e-54b7-4d5a-9d0b-7a2f6f1c2e10"} |
    Then the answer is 202
    When I submit task "rain"
    And I follow task "rain"
    Then stream "rain" ends with end
    And the log narrates the admission of task "rain" with
      | actor          | localhost     |
      | action         | admit         |
      | target         | pool:default  |
      | pool_id        | default       |
      | engine         | llamacpp      |
      | engine_version | /./           |
      | replica_id     | /^$/          |
      | queue_position | >= 0          |
    And the log narrates the placement of task "rain" with
      | replica_id | default-0 |
    And the log narrates the stream_start of task "rain"
    And the log narrates the stream_end of task "rain" with
      | replica_id     | default-0 |
      | tokens_in      | > 0       |
      | tokens_out     | > 0       |
      | decode_time_ms | >= 0      |
    And the log has a line "stream_end" with
      | job_id         | owls                                 |
      | correlation_id | night-shift:7                        |
      | session_id     | 3f8a1c9e-54b7-4d5a-9d0b-7a2f6f1c2e10 |
    And every line of the log is a JSON object
    And the log does not hold "haiku about"

  @ORCH-3300
  Scenario: A cancel and a failure are told too
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
    Then stream "victim" ends with error CANCELED
    And the log narrates the cancel of task "victim" with
      | while      | running   |
      | replica_id | default-0 |
      | tokens_out | 2         |
    When the fake engine's script is
      """
      {"tokens": 9, "fault": "error_frame", "after": 1}
      """
    And I submit task "broken" with
      | determinism | best_effort |
    And I follow task "broken"
    Then stream "broken" ends with error WORKER_RESET
    And the log narrates the stream_end of task "broken" with
      | code       | WORKER_RESET |
      | tokens_out | 3            |

  @ORCH-1102
  Scenario: A pool on the CPU is warned of
    Given a daemon
    Then the log has a line "this pool decodes on the CPU, because its configuration says `device: cpu`" with
      | level   | warn    |
      | pool_id | default |

  @OC-CTRL-2052
  Scenario Outline: A sound correlation id is echoed on every answer
    Given the shared daemon
    When I send GET "<path>" with the headers
      | X-Correlation-Id | Trace.7_a:b-c |
    Then the answer is <status>
    And its headers have
      | X-Correlation-Id | Trace.7_a:b-c |

    Examples:
      | path               | status |
      | /healthz           | 200    |
      | /metrics           | 200    |
      | /v1/capabilities   | 200    |
      | /v1/tasks          | 200    |
      | /v1/tasks/none     | 404    |
      | /v1/tasks?limit=x  | 400    |
      | /v1/catalog/models | 200    |
      | /v1/sessions/none  | 400    |
      | /nowhere           | 404    |

  @OC-CTRL-2052
  Scenario: A stream carries it too
    Given the shared daemon
    When I submit task "traced"
    Then task "traced" is completed
    When I send GET "/v1/tasks/{traced}/stream" with the headers
      | X-Correlation-Id | Trace.7_a:b-c |
    Then the answer is 200
    And its headers have
      | X-Correlation-Id | Trace.7_a:b-c     |
      | Content-Type     | text/event-stream |

  @OC-CTRL-2052
  Scenario Outline: A missing or unsound correlation id is replaced by a fresh one
    Given the shared daemon
    When I send GET "/v1/tasks/none" with the headers
      | X-Correlation-Id | <sent> |
    Then the answer is 404
    And its headers have
      | X-Correlation-Id | /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/ |

    Examples:
      | sent        |
      | none        |
      | two words   |
      | <script>    |
      | ünsound     |
      | 0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789 |

  @LO-623
  Scenario: The log is read over the API, by pool, task and text
    Given a daemon
    When I submit an interactive task "a"
    And I follow task "a"
    And the log narrates the stream_end of task "a"
    And I send GET "/v1/logs?follow=false&level=info&pool_id=default&text=FINISHED"
    Then the answer is 200
    And its headers have
      | Content-Type | text/event-stream |
    And its text says "event: line"
    And its text says "\"msg\":\"stream_end\""
    When I send GET "/v1/logs?follow=false&text=nobody-says-this"
    Then the answer is 200
    And its text does not say "event: line"
    When I send GET "/v1/logs?follow=false&level=loud"
    Then the answer is 400 INVALID_PARAMS
