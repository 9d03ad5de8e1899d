Feature: Sending a task again
  A task_id makes a submit safe to repeat: the same body gets the same admission, another body a conflict.

  @LO-101
  Scenario: The same body gets the same admission, before and after the task has ended
    Given a daemon whose pool has
      | pace | 30 |
    When I submit task "once" with
      | task_id | order-1 |
    And I submit task "again" with
      | task_id | order-1 |
    Then the answer is the same as the admission of task "once"
    When I follow task "once"
    Then stream "once" ends with end
    When I submit task "later" with
      | task_id | order-1 |
    Then the answer is the same as the admission of task "once"
    And I send GET "/v1/tasks"
    And its body lists 1 "tasks"

  @LO-101
  Scenario: White space between the values does not count
    Given the shared daemon
    When I post to "/v1/tasks"
      """
      {"model_ref": "haiku", "prompt": "Write a haiku about rain.\n\n", "task_id": "spaced-1"}
      """
    Then the answer is 202
    And I keep its "seed" as $SEED
    When I post to "/v1/tasks"
      """
      { "model_ref":"haiku",
        "prompt" : "Write a haiku about rain.\n\n",
        "task_id": "spaced-1" }
      """
    Then the answer is 202
    And its body has
      | seed | $SEED |

  @LO-101
  Scenario Outline: Another body is a conflict
    Given the shared daemon
    When I submit task "first" with
      | task_id | conflict-<n> |
      | seed    | 1            |
    Then the answer is 202
    When I submit task "second" with
      | task_id | conflict-<n> |
      | seed    | 1            |
      | <field> | <value>      |
    Then the answer is 409 CONFLICT
    And its message says "conflict-<n>"
    And its body has
      | retriable | false |

    Examples:
      | n | field    | value      |
      | 1 | seed     | 2          |
      | 2 | prompt   | Another.   |
      | 3 | priority | batch      |

  @LO-101
  Scenario: Many submits at once are one task
    Given a daemon
    When I submit 8 tasks "same" at once with
      | task_id | race-1 |
    And I follow task "same"
    Then stream "same" ends with end
    And I send GET "/v1/tasks"
    And its body lists 1 "tasks"
    And the metrics have
      | tasks_enqueued_total | 1 |
      | tasks_started_total  | 1 |

  @LO-101
  Scenario: A refused task leaves its id free
    Given the shared daemon
    When I submit task "refused" with
      | task_id   | free-1 |
      | model_ref | sonnet |
    Then the answer is 404 MODEL_NOT_FOUND
    When I submit task "accepted" with
      | task_id | free-1 |
    Then the answer is 202
