Feature: Joining
  A client that lost its answer sends the request again with the same Idempotency-Key, and gets the answer of the task that it has.

  @LO-208
  Scenario Outline: The same request with the same key gets the same answer, also after a kill -9 of the daemon
    Given a daemon whose pool has
      | replicas | 1 |
    When I send POST "<path>" with the headers
      | Idempotency-Key | order-1 |
      | body            | <body>  |
    Then the answer is 200
    And I keep its "<id>" as $ID
    And I keep its "<text>" as $TEXT
    And the metrics have
      | tasks_started_total{pool_id="default"} | 1 |
    When I kill the daemon
    And I start the daemon again
    And I send POST "<path>" with the headers
      | Idempotency-Key | order-1 |
      | body            | <body>  |
    Then the answer is 200
    And its body has
      | <id>   | $ID   |
      | <text> | $TEXT |
    And I send GET "/v1/tasks"
    And its body lists 1 "tasks"

    Examples:
      | path                 | id         | text                      | body                                                                                         |
      | /v1/chat/completions | id         | choices.0.message.content | {"model":"haiku","messages":[{"role":"user","content":"Write a haiku about rain."}]}              |
      | /v1/messages         | id         | content.0.text            | {"model":"haiku","max_tokens":60,"messages":[{"role":"user","content":"Write a haiku about rain."}]} |
      | /api/generate        | created_at | response                  | {"model":"haiku","prompt":"Write a haiku about rain.","stream":false}                           |
