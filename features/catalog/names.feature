Feature: What a model is called
  A task names its model by the id that a pool gives it, by the ref of the pool's model, or by its id in the catalog.

  @LO-844
  Scenario: A pool serves its model under all its names
    Given a daemon
    When I post to "/v1/catalog/models"
      """
      {"id": "short", "ref": "file:$MODEL", "wait_ms": 20000}
      """
    Then the answer is 201
    When I submit task "by-id" with
      | model_ref | haiku |
    Then the answer is 202
    When I submit task "by-ref" with
      | model_ref | file:$MODEL |
    Then the answer is 202
    When I submit task "by-catalog" with
      | model_ref | short |
    Then the answer is 202
    And its body has
      | pool_id | default |
    When I follow task "by-catalog"
    Then stream "by-catalog" ends with end
    When I post to "/v1/placement/explain"
      """
      {"model_ref": "short"}
      """
    Then the answer is 200
    And its body has
      | pool_id | default |
    When I submit task "by-none" with
      | model_ref | shorter |
    Then the answer is 404 MODEL_NOT_FOUND
    When I post to "/v1/catalog/models/short/state"
      """
      {"state": "Retired", "deadline_ms": 60000}
      """
    Then the answer is 200
    When I submit task "retired" with
      | model_ref | short |
    Then the answer is 410 MODEL_DEPRECATED
